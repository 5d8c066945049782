"""Ranks as threads: the collectives of the protocol, and their errors."""

from __future__ import annotations

import numpy as np
import pytest

from alq_hvd.communicator import base
from alq_hvd.communicator.base import allgather_bytes, as_payload, gather_bytes, scatter_bytes
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.errors import AlqError, CommunicationTimeout
from tests.support.cases import each


def mine(rank: int, length: int = 3) -> np.ndarray:
    return np.full(length, rank, dtype=np.uint8)


@each("size", [1, 2, 5, 16])
def test_collectives_deliver_in_rank_order(size: int) -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        gathered = ranks.allgather(mine(ranks.rank), "a").wait()
        assert [part.tolist() for part in gathered] == [[rank] * 3 for rank in range(size)]
        received = ranks.alltoall([mine(10 * ranks.rank + to, to) for to in range(size)], "b").wait()
        assert [part.tolist() for part in received] == [[10 * frm + ranks.rank] * ranks.rank for frm in range(size)]
        at_root = ranks.gather(mine(ranks.rank, ranks.rank), size - 1, "c").wait()
        assert [len(part) for part in at_root] == (list(range(size)) if ranks.rank == size - 1 else [])
        assert ranks.broadcast(mine(ranks.rank + 7), 0, "d").wait().tolist() == [7] * 3

    LoopbackWorld(size).run(program)


def test_names_make_the_order_of_starting_irrelevant() -> None:
    def program(ranks: LoopbackCommunicator) -> list[int]:
        names = ["x", "y", "z"] if ranks.rank else ["z", "x", "y"]
        pending = {name: ranks.allgather(as_payload(name.encode()), name) for name in names}
        return [int(pending[name].wait()[1 - ranks.rank][0]) for name in "xyz"]

    assert LoopbackWorld(2).run(program) == [[ord("x"), ord("y"), ord("z")]] * 2


def test_a_name_may_be_used_again_and_again() -> None:
    def program(ranks: LoopbackCommunicator) -> list[int]:
        return [int(ranks.broadcast(mine(ranks.rank + step), 1, "levels").wait()[0]) for step in range(50)]

    assert LoopbackWorld(3).run(program) == [list(range(1, 51))] * 3


def test_bytes_of_any_length_are_gathered() -> None:
    texts = [b"", b"a", b"a longer one\0", b"\0"]
    assert LoopbackWorld(4).run(lambda ranks: allgather_bytes(ranks, texts[ranks.rank], "t")) == [texts] * 4


def test_a_sender_may_overwrite_its_payload_at_once() -> None:
    def program(ranks: LoopbackCommunicator) -> list[int]:
        payload = mine(ranks.rank)
        pending = ranks.allgather(payload, "a")
        payload[:] = 99
        return [int(part[0]) for part in pending.wait()]

    assert LoopbackWorld(2).run(program) == [[0, 1]] * 2


def test_a_rank_that_never_joins_is_named() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        if ranks.rank != 2:
            ranks.allgather(mine(0), "gradients").wait()

    with pytest.raises(CommunicationTimeout, match=r"'gradients' needs ranks \[2\]"):
        LoopbackWorld(3, timeout=0.2).run(program)


def test_the_first_error_of_a_rank_reaches_the_caller_and_ends_the_others() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        if ranks.rank == 1:
            raise ZeroDivisionError("rank 1 broke")
        ranks.allgather(mine(0), "a").wait()

    with pytest.raises(ZeroDivisionError, match="rank 1 broke"):
        LoopbackWorld(3, timeout=30).run(program)


def test_two_collectives_under_one_name_are_refused() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        if ranks.rank:
            ranks.allgather(mine(0), "a").wait()
        else:
            ranks.broadcast(mine(0), 0, "a").wait()

    with pytest.raises(AlqError, match="allgather.*broadcast|broadcast.*allgather"):
        LoopbackWorld(2, timeout=5).run(program)


@pytest.mark.parametrize("piece", [2**30, 12])
@pytest.mark.parametrize("lengths", [(0, 0, 0), (5, 0, 17), (4, 4, 4)])
def test_bytes_of_any_length_go_to_the_root_and_back_in_pieces(
    piece: int, lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_LARGEST_PIECE", piece)
    texts = [bytes([65 + rank]) * length for rank, length in enumerate(lengths)]

    def program(ranks: LoopbackCommunicator) -> tuple[list[bytes], bytes]:
        gathered = gather_bytes(ranks, texts[ranks.rank], 1, "there")
        return gathered, scatter_bytes(ranks, gathered, 1, "back")

    done = LoopbackWorld(3).run(program)
    assert [back for _, back in done] == texts
    assert done[1][0] == texts
    assert not any(done[0][0] + done[2][0])
