"""Collectives of more bytes than MPI counts: in pieces, all of them under way at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np

from alq_hvd import backends
from alq_hvd.codec.arrays import B
from alq_hvd.communicator.base import Pending
from alq_hvd.exchange.staged import Carrier

LARGEST = 2**30
"""Bytes of one collective, of all ranks together. MPI's counts and places are ints of 32 bits with a sign."""


@dataclass(frozen=True, slots=True)
class InPieces(Generic[B]):
    """Carry what ``inner`` carries, but cut up where all ranks together would send too much; see ``Carrier``.

    Attributes:
        inner: carries the pieces.
        size: number of ranks.
    """

    inner: Carrier[B]
    size: int

    def allgather(self, payload: B, name: str) -> Pending[list[B]]:
        """Give every rank's payload to every rank, in rank order; lengths must be equal."""
        starts = self._starts(len(payload))
        if len(starts) < 2:
            return self.inner.allgather(payload, name)
        step = starts[1]
        return _Pieces([self.inner.allgather(payload[start : start + step], f"{name}.from{start}") for start in starts])

    def alltoall(self, payloads: Sequence[B], name: str, *, alike: bool = False) -> Pending[list[B]]:
        """Give ``payloads[r]`` to rank r; only those of which all ranks know the lengths, ``alike``, are cut up."""
        starts = self._starts(max(map(len, payloads)))
        if len(starts) < 2 or not alike:
            return self.inner.alltoall(payloads, name, alike=alike)
        step = starts[1]
        return _Pieces(
            [
                self.inner.alltoall(
                    [each[start : start + step] for each in payloads], f"{name}.from{start}", alike=True
                )
                for start in starts
            ]
        )

    def _starts(self, longest: int) -> range:
        return range(0, longest, max(LARGEST // self.size, 1))


@dataclass(frozen=True, slots=True)
class _Pieces(Generic[B]):
    """Represent the pieces of one collective in flight."""

    started: Sequence[Pending[list[B]]]

    def done(self) -> bool:
        return all(piece.done() for piece in self.started)

    def wait(self) -> list[B]:
        received = [piece.wait() for piece in self.started]
        return [_joined(of_one_rank) for of_one_rank in zip(*received, strict=True)]


def _joined(pieces: Sequence[Any]) -> Any:
    return np.concatenate(pieces) if isinstance(pieces[0], np.ndarray) else backends.torch().cat(list(pieces))
