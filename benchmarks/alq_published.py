"""ALQ as its authors' public code solves it: for comparison with published numbers, not for use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.policies import starts
from alq_hvd.quantiser.policies.adoption import adopt, keep, unusable
from alq_hvd.quantiser.policies.base import LevelUpdate
from alq_hvd.quantiser.policies.distributions import Float64Array, PiecewiseUniform
from alq_hvd.quantiser.policies.objective import psi
from alq_hvd.quantiser.policies.truncated_normal import TruncatedNormalMixture
from alq_hvd.quantiser.statistics import GradientStatistics


@dataclass(frozen=True, slots=True)
class AlqPublished:
    """Move each level by ten finite-difference gradient steps, thirty times over, from three starts.

    With Euclidean norms and large buckets the steps oscillate near zero and stop in the tails: the result is far from
    the optimum of the model, and on real, heavy-tailed gradients often better than that optimum. It is the source of
    the published accuracies. ``Alq`` is the same method with its own closed-form update.

    What the code does when a step leaves the interval between the neighbours is not known; here it stops just inside.

    Attributes:
        weight_exponent: 1, as in the code.
        sweeps: over all levels.
        steps: on each level.
        learning_rate: of a step.

    References:
        Faghri et al., NeurIPS 2020; behaviour of the public simulator of January 2021.
    """

    weight_exponent: int = 1
    sweeps: int = 30
    steps: int = 10
    learning_rate: float = 1.0

    @property
    def adapts(self) -> bool:
        """Return True."""
        return True

    def update(self, statistics: GradientStatistics, current: Levels) -> LevelUpdate:
        """Return the best of the three tables, as long as ``current``, if it beats ``current`` in the model."""
        reason = unusable(statistics, self.weight_exponent)
        if reason:
            return keep(current, reason)
        count = len(current)
        model = TruncatedNormalMixture.from_statistics(statistics)
        table = model.tabulated()
        begin = (starts.quantiles(table, count), starts.uniform(count), starts.exponential(count))
        tables = np.stack([starts.separated(start, starts.SMALLEST_GAP) for start in begin])
        for _ in range(self.sweeps):
            for index in range(1, count - 1):
                self._move(table, tables, index)
        best = tables[[int(np.nanargmin(psi(table, tables)))]]
        return adopt(model, current, best)

    def _move(self, distribution: PiecewiseUniform, tables: Float64Array, index: int) -> None:
        """Take the steps on one level of all tables, float64[starts, count], in place."""
        low, level, high = tables[:, index - 1], tables[:, index], tables[:, index + 1]
        step = (high - low) / 1000
        below_low, below_high = distribution.cumulative(low), distribution.cumulative(high)
        for _ in range(self.steps):
            places = np.stack([level, np.minimum(level + step, high)])
            below = distribution.cumulative(places)
            left = (low + places) * (below.first - below_low.first) - low * places * (below.mass - below_low.mass)
            right = (places + high) * (below_high.first - below.first)
            right -= places * high * (below_high.mass - below.mass)
            slope = (left + right)[1] - (left + right)[0]
            level = level - self.learning_rate * slope / step
            level = np.clip(level, low + starts.SMALLEST_GAP, high - starts.SMALLEST_GAP)
        tables[:, index] = level
