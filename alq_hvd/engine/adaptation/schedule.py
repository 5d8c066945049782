"""At which steps levels are fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.config import require_int

_LAST_STEP = 2**62


@dataclass(frozen=True, slots=True)
class Schedule:
    """Name the steps whose gradients fit the levels of the steps that follow.

    Attributes:
        at: these steps, counted from 0.
        every: and every multiple of this number of steps (0 is no multiple here); ``None`` for no more.
    """

    at: tuple[int, ...] = ()
    every: int | None = None

    def __post_init__(self) -> None:
        for step in self.at:
            require_int("schedule: a step", step, 0, _LAST_STEP)
        if self.every is not None:
            require_int("schedule: the interval", self.every, 1, _LAST_STEP)

    def __contains__(self, step: int) -> bool:
        return step in self.at or (self.every is not None and step > 0 and step % self.every == 0)

    @classmethod
    def paper(cls) -> Schedule:
        """Return steps 0, 100, 2000 and every 10 000 (spec section 7: the CIFAR-10 runs)."""
        return cls(at=(0, 100, 2000), every=10_000)

    @classmethod
    def parse(cls, given: Schedule | int | Sequence[int] | None) -> Schedule:
        """Return the schedule meant: ``None`` the paper's, an int 0 and its multiples, a sequence those steps."""
        if given is None:
            return cls.paper()
        if isinstance(given, Schedule):
            return given
        if isinstance(given, int):
            return cls(at=(0,), every=given)
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise ConfigurationError(
                f"schedule: expected None, an interval, a list of steps or a Schedule, got {given!r}"
            )
        return cls(at=tuple(given))
