"""Tables that never change, and the policy that leaves them alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.config import require_int
from alq_hvd.quantiser.levels import MAXIMUM_BITS, Levels
from alq_hvd.quantiser.policies import starts
from alq_hvd.quantiser.policies.base import LevelUpdate
from alq_hvd.quantiser.statistics import GradientStatistics


@dataclass(frozen=True, slots=True)
class Fixed:
    """Keep the current levels for ever."""

    @property
    def adapts(self) -> bool:
        """Return False: no statistics are needed."""
        return False

    @property
    def weight_exponent(self) -> int:
        """Return 0: statistics would not be weighted."""
        return 0

    def update(self, statistics: GradientStatistics, current: Levels) -> LevelUpdate:
        """Return ``current``; the statistics are not looked at and the objectives read NaN."""
        return LevelUpdate(current, float("nan"), float("nan"), "kept the levels: this method does not adapt")


def table_size(bits: int, zero_level: bool) -> int:
    """Return how many levels a symmetric table of ``bits`` has: 2^bits without a zero level, one less with it.

    Raises:
        ConfigurationError: when ``bits`` is not 1 to 8, or is 1 with a zero level.
    """
    require_int("bits", bits, 1, MAXIMUM_BITS)
    if zero_level and bits == 1:
        raise ConfigurationError("bits: expected 2 to 8 for a table with a zero level, got 1")
    return (1 << bits) - int(zero_level)


def uniform(bits: int, *, zero_level: bool = False) -> Levels:
    """Return equally spaced levels from -1 to 1: 2^bits of them, or 2^bits - 1 with zero in the middle."""
    return Levels(starts.uniform(table_size(bits, zero_level)).astype(np.float32))


def exponential(bits: int, multiplier: float = 0.5, *, zero_level: bool = False) -> Levels:
    """Return the levels +-p^j: 2^bits of them, or with zero in the middle 2^bits - 1.

    Levels that a float32 table cannot hold 1e-7 apart are left out: with p = 1/2 those below 2^-23, so that the
    tables of 6, 7 and 8 bits all have 48 levels. At most d * 2^-46 of relative variance is lost by that.

    Raises:
        ConfigurationError: when ``bits`` is undefined, or ``multiplier`` is not inside (0, 1).
    """
    if not 0 < multiplier < 1:
        raise ConfigurationError(f"multiplier: expected a number between 0 and 1, got {multiplier!r}")
    table = starts.exponential(table_size(bits, zero_level), multiplier).astype(np.float32)
    held = np.abs(table) >= starts.SMALLEST_MAGNITUDE
    return Levels(table[held | (table == 0)])


def spread_exponential(bits: int, *, zero_level: bool = False) -> Levels:
    """Return the exponential levels from which adaptive methods start: p = 1/2 up to 5 bits, larger beyond."""
    count = table_size(bits, zero_level)
    return exponential(bits, starts.spread_multiplier(count), zero_level=zero_level)


def ternary() -> Levels:
    """Return -1, 0, 1, the three levels of TernGrad: log2(3) = 1.585 bits, packed in 2.

    References:
        Wen et al., "TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning", NeurIPS 2017.
    """
    return Levels(np.array([-1, 0, 1], dtype=np.float32))
