"""ALQG and ALQG-N: the objective of ALQ lowered by projected gradient steps on symmetric tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.policies import starts
from alq_hvd.quantiser.policies.adoption import adopt, keep, unusable
from alq_hvd.quantiser.policies.base import LevelUpdate
from alq_hvd.quantiser.policies.distributions import Distribution, Float64Array
from alq_hvd.quantiser.policies.objective import gradient
from alq_hvd.quantiser.policies.truncated_normal import TruncatedNormalMixture
from alq_hvd.quantiser.statistics import GradientStatistics


@dataclass(frozen=True, slots=True)
class AlqGradient:
    """Fit symmetric levels by gradient steps that never go further than half the way to a neighbour.

    1. Start from the current magnitudes, the exponential, the uniform and the quantile ones.
    2. In each sweep move every second magnitude, then the others, by ``learning_rate`` times the derivative of the
       objective, cut to half the distance to the nearer neighbour (to zero, for the smallest).
    3. Adopt the best table, if it beats the current one.

    The authors' code drops a dummy level at zero after the descent; here the table without a zero is judged and
    moved as it is. With Euclidean norms and large buckets derivatives are small, and 30 sweeps of the published rate
    stop short of a stationary point: that is the method. ``Alq`` needs no rate.

    Attributes:
        weight_exponent: 2 as derived, 1 as in the authors' code, 0 for ALQG-N.
        sweeps: how often every level moves; 30 is published.
        learning_rate: step for a derivative of 1; 0.1 is published. Larger: faster, and in the end unsteady.

    References:
        Faghri et al., "Adaptive Gradient Quantization for Data-Parallel SGD", NeurIPS 2020 (ALQG, ALQG-N).
    """

    weight_exponent: int = 2
    sweeps: int = 30
    learning_rate: float = 0.1

    @property
    def adapts(self) -> bool:
        """Return True."""
        return True

    def update(self, statistics: GradientStatistics, current: Levels) -> LevelUpdate:
        """Return the fitted symmetric table, as long as ``current``, with a zero in the middle when that is odd."""
        reason = unusable(statistics, self.weight_exponent)
        if reason:
            return keep(current, reason)
        count = len(current)
        model = TruncatedNormalMixture.from_statistics(statistics)
        table = model.tabulated()
        begin = np.stack(
            [
                current.values.astype(np.float64),
                starts.exponential(count, starts.spread_multiplier(count)),
                starts.uniform(count),
                starts.quantiles(table, count),
            ]
        )
        magnitudes = np.sort(np.abs(begin[:, count - count // 2 :]), axis=1)
        magnitudes = np.stack([starts.separated(row, starts.SMALLEST_GAP) for row in np.maximum(magnitudes, 1e-6)])
        magnitudes[:, -1] = 1.0
        for _ in range(self.sweeps):
            self._sweep(table, magnitudes, count % 2)
        return adopt(model, current, _mirrored(magnitudes, count % 2))

    def _sweep(self, distribution: Distribution, magnitudes: Float64Array, zeros: int) -> None:
        """Move all magnitudes but the largest, float64[starts, count // 2], in place."""
        inner = magnitudes.shape[1] - 1
        for parity in (0, 1):
            chosen = np.arange(parity, inner, 2)
            if not len(chosen):
                continue
            slope = gradient(distribution, _mirrored(magnitudes, zeros))
            slope = slope[:, inner + zeros :] - slope[:, :inner][:, ::-1]
            below = np.concatenate([np.zeros((len(magnitudes), 1)), magnitudes[:, :-2]], axis=1)[:, :inner]
            room = np.minimum(magnitudes[:, :-1] - below, magnitudes[:, 1:] - magnitudes[:, :-1]) / 2
            step = np.clip(self.learning_rate * slope, -room, room)
            magnitudes[:, chosen] -= step[:, chosen]


def _mirrored(magnitudes: Float64Array, zeros: int) -> Float64Array:
    """Return the signed tables, float64[starts, 2 * magnitudes + zeros], of increasing magnitudes."""
    return np.concatenate([-magnitudes[:, ::-1], np.zeros((len(magnitudes), zeros)), magnitudes], axis=1)
