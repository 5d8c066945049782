"""How a fusion group is dealt out to ranks: one run of whole buckets each."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Chunk:
    """Name the elements ``start`` up to, not including, ``stop`` of a fusion group; none when they are equal."""

    start: int
    stop: int

    @property
    def elements(self) -> int:
        """Return how many elements the chunk has."""
        return self.stop - self.start


def deal(elements: int, unit: int, ranks: int) -> list[Chunk]:
    """Return one chunk a rank, in order, each of whole units of ``unit`` elements but for the last that has any.

    Chunks differ by at most one unit. With fewer units than ranks some chunks are empty.
    """
    units = -(-elements // unit)
    starts = [min(elements, unit * (units * rank // ranks)) for rank in range(ranks + 1)]
    return [Chunk(start, stop) for start, stop in pairwise(starts)]
