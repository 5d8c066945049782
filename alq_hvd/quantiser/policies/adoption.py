"""The one gate through which a fitted table becomes the next one: only an improvement is adopted."""

from __future__ import annotations

import numpy as np

from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.levels_by_width import AnyLevels
from alq_hvd.quantiser.policies.base import LevelUpdate
from alq_hvd.quantiser.policies.distributions import Distribution, Float64Array
from alq_hvd.quantiser.policies.objective import psi
from alq_hvd.quantiser.policies.starts import SMALLEST_GAP, separated
from alq_hvd.quantiser.statistics import GradientStatistics


def unusable(statistics: GradientStatistics, weight_exponent: int) -> str:
    """Return why nothing can be fitted to ``statistics``, empty when something can.

    Raises:
        ConfigurationError: when the statistics are weighted otherwise than the policy asks.
    """
    if statistics.weight_exponent != weight_exponent:
        raise ConfigurationError(
            f"expected statistics of weight exponent {weight_exponent}, got {statistics.weight_exponent}"
        )
    if statistics.usable:
        return ""
    if statistics.non_finite_buckets:
        return f"kept the levels: {statistics.non_finite_buckets} buckets of the gradient hold NaN or infinity"
    if statistics.coordinates == 0:
        return f"kept the levels: no coordinate was counted ({statistics.zero_buckets} buckets are all zero)"
    return f"kept the levels: the total weight of the coordinates is {statistics.total_mass:g}"


def keep(current: AnyLevels, reason: str) -> LevelUpdate:
    """Return the update that changes nothing because no objective could be computed: both read NaN."""
    return LevelUpdate(current, float("nan"), float("nan"), reason)


def adopt(distribution: Distribution, current: Levels, candidates: Float64Array) -> LevelUpdate:
    """Return the best of ``candidates``, float64[tables, count], as the next version, if it beats ``current``.

    Candidates are judged as the float32 tables they become.
    """
    rounded = np.stack([separated(table, SMALLEST_GAP) for table in candidates]).astype(np.float32)
    before = float(psi(distribution, current.values))
    after = psi(distribution, rounded)
    best = int(np.nanargmin(after)) if np.isfinite(after).any() else 0
    if not after[best] < before:
        return LevelUpdate(current, before, before, "kept the levels: no better ones were found")
    return LevelUpdate(current.next_version(rounded[best]), before, float(after[best]))
