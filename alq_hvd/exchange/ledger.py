"""Counters of one rank: where the seconds went, and how many bytes were sent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PHASES = ("encode", "exchange", "decode", "adapt")
"""``exchange`` is time spent waiting for collectives; what overlaps with the backward pass costs nothing. ``encode`` is
also the middle of a two-shot, which decodes, adds and encodes again in one."""


@dataclass(slots=True)
class Ledger:
    """Add up seconds by phase and bytes by step.

    Attributes:
        seconds: wall-clock seconds this rank spent in each phase since the start.
        bytes_this_step: bytes sent by this rank in the step that is open.
        bytes_last_step: bytes sent in the last completed step.
        bytes_total: bytes sent in all completed steps.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    bytes_this_step: int = 0
    bytes_last_step: int = 0
    bytes_total: int = 0

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the duration of the block to ``phase``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start

    def sent(self, count: int) -> None:
        """Count bytes sent in the open step."""
        self.bytes_this_step += count

    def end_step(self) -> None:
        """Close the step."""
        self.bytes_last_step = self.bytes_this_step
        self.bytes_total += self.bytes_this_step
        self.bytes_this_step = 0


def ring_bytes(size: int, payload: int) -> int:
    """Return the bytes each of ``size`` ranks sends in a ring all-reduce of ``payload`` bytes: 2 (n-1)/n of them."""
    return -(-2 * (size - 1) * payload // size)
