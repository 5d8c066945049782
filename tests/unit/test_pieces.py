"""Collectives of more bytes than MPI counts go in pieces, whatever they carry."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.exchange import pieces
from alq_hvd.exchange.allgather import allgather
from alq_hvd.exchange.pieces import LARGEST, InPieces
from alq_hvd.exchange.two_shot import two_shot
from tests.support.exchanging import Watched, aggregate, exchange, gradient
from tests.support.grid import grid


def test_no_collective_of_the_largest_gradients_is_beyond_what_mpi_counts() -> None:
    """A parameter of 786 million numbers at 3 bits on 8 ranks: 2.4 GB of one all-gather, 3.1 GB inside a node."""
    started: list[tuple[str, int]] = []

    class Counting:
        def allgather(self, payload: np.ndarray, name: str) -> None:
            started.append((name, size * len(payload)))

        def alltoall(self, payloads: list[np.ndarray], name: str, *, alike: bool) -> None:
            started.append((name, sum(map(len, payloads))))
            started.append((name, size * max(map(len, payloads))))  # received by the rank with the longest chunk

    size, zeros = 8, np.broadcast_to(np.uint8(0), 3 * 2**30)  # no memory behind it
    carrier = InPieces(Counting(), size)  # type: ignore[arg-type]
    carrier.allgather(zeros[: 786_000_000 // 8 * 3], "record")
    carrier.alltoall([zeros[: 4 * 786_000_000 // size]] * size, "share", alike=True)
    assert max(count for _, count in started) <= LARGEST < 2**31
    assert len({name for name, _ in started}) == 3 + 3
    started.clear()
    carrier.allgather(zeros[: LARGEST // size], "small")
    assert started == [("small", LARGEST)]


def test_every_exchange_gives_the_same_bits_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, function in {"allgather": allgather, "two_shot": two_shot}.items():
        for elements in (0, 63, 1000, 5000):
            gradients = [gradient(rank, elements) for rank in range(3)]
            whole = exchange(function, gradients)[0].result
            with monkeypatch.context() as patch:
                patch.setattr(pieces, "LARGEST", 700)
                for outcome in exchange(function, gradients):
                    assert outcome.result.tobytes() == whole.tobytes(), (name, elements)


def test_inside_nodes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def sums() -> list[bytes]:
        placed = grid(2, 2)
        options = {"exchange": "hierarchical", "bucket_size": 64, "bits": 4}
        return LoopbackWorld(4).run(lambda ranks: aggregate(placed(ranks), 3000, **options)[0].tobytes())

    whole = sums()
    monkeypatch.setattr(pieces, "LARGEST", 700)
    assert sums() == whole


def test_tensors_are_cut_and_joined_as_arrays_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LARGEST", 40)

    def program(ranks: LoopbackCommunicator) -> None:
        watched = Watched(ranks)
        carrier = InPieces(watched, 2)
        own = torch.arange(50, dtype=torch.uint8) + 100 * ranks.rank
        pending = carrier.allgather(own, "a")
        received = pending.wait()
        assert [part.tolist() for part in received] == [list(range(50)), list(range(100, 150))]
        chunks = carrier.alltoall([own[:45], own[45:]], "b", alike=True).wait()
        start, stop = (0, 45) if ranks.rank == 0 else (45, 50)
        assert [part.tolist() for part in chunks] == [list(range(start + at, stop + at)) for at in (0, 100)]
        assert [name for _, name, _ in watched.started] == [
            f"{name}.from{start}" for name in "ab" for start in (0, 20, 40)
        ]

    LoopbackWorld(2).run(program)
