"""AMQ and AMQ-N: levels at the powers of one multiplier, which is fitted to the published model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.policies.adoption import adopt, keep, unusable
from alq_hvd.quantiser.policies.base import LevelUpdate
from alq_hvd.quantiser.policies.distributions import Float64Array, PiecewiseUniform
from alq_hvd.quantiser.policies.objective import psi
from alq_hvd.quantiser.policies.starts import exponentials
from alq_hvd.quantiser.policies.truncated_normal import TruncatedNormalMixture
from alq_hvd.quantiser.statistics import GradientStatistics

_SCAN = 97
_ZOOM = 17
_ROUNDS = 6
_SMALLEST_LEVEL = 4e-6
_LARGEST_LOGARITHM = math.log1p(-1e-4)


@dataclass(frozen=True, slots=True)
class Amq:
    """Fit the multiplier p of the levels +-p^j by a scan of all p and a zoom on the best, in log p.

    The objective has one variable; the published gradient descent on p needs many starts, can leave (0, 1) and
    leaves the central bin out when it compares them. The scan needs none of that. The range of p is the one whose
    tables float32 can hold apart: p^s >= 4e-6 for the largest exponent s, and p <= 1 - 1e-4.

    Attributes:
        weight_exponent: 2 as derived, 1 as in the authors' code, 0 for AMQ-N.

    References:
        Faghri et al., "Adaptive Gradient Quantization for Data-Parallel SGD", NeurIPS 2020 (AMQ, AMQ-N).
    """

    weight_exponent: int = 2

    @property
    def adapts(self) -> bool:
        """Return True."""
        return True

    def update(self, statistics: GradientStatistics, current: Levels) -> LevelUpdate:
        """Return the table +-p^j, as long as ``current``, with a zero in the middle when its length is odd."""
        reason = unusable(statistics, self.weight_exponent)
        if reason:
            return keep(current, reason)
        if len(current) < 4:
            return keep(current, "kept the levels: two or three symmetric levels have no multiplier")
        model = TruncatedNormalMixture.from_statistics(statistics)
        multiplier = best_multiplier(model.tabulated(), len(current))
        return adopt(model, current, exponentials(len(current), np.array([multiplier])))


def best_multiplier(distribution: PiecewiseUniform, count: int) -> float:
    """Return the p in (0, 1) whose table of ``count`` >= 4 levels has the least objective."""
    largest_exponent = count // 2 - 1
    low, high = max(math.log(1e-3), math.log(_SMALLEST_LEVEL) / largest_exponent), _LARGEST_LOGARITHM
    scan: Float64Array = np.linspace(low, high, _SCAN)
    for _ in range(_ROUNDS):
        best = int(psi(distribution, exponentials(count, np.exp(scan))).argmin())
        scan = np.linspace(scan[max(best - 1, 0)], scan[min(best + 1, len(scan) - 1)], _ZOOM)
    return math.exp(scan[_ZOOM // 2])
