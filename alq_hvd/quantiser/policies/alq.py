"""ALQ and ALQ-N: every level free, coordinate descent on the published model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.policies import starts
from alq_hvd.quantiser.policies.adoption import adopt, keep, unusable
from alq_hvd.quantiser.policies.base import LevelUpdate
from alq_hvd.quantiser.policies.descent import descend
from alq_hvd.quantiser.policies.objective import psi
from alq_hvd.quantiser.policies.truncated_normal import TruncatedNormalMixture
from alq_hvd.quantiser.statistics import GradientStatistics

_SWEEPS_OF_ALL = 12


@dataclass(frozen=True, slots=True)
class Alq:
    """Fit all interior levels to a mixture of truncated normals, one a bucket; the ends stay at -1 and 1.

    1. Build the model: buckets weigh norm**weight_exponent; exponent 0 is ALQ-N.
    2. Start from the current table, the exponential, the uniform, the quantile and the companded one.
    3. Descend with the closed-form update (not the ten finite-difference steps of the authors' code), from all of
       them for 12 sweeps, then from the best until nothing moves: 100 more sweeps suffice up to 16 levels, their
       number grows with the count.
    4. Adopt the best, if it beats the current table in the model's own objective.

    Attributes:
        weight_exponent: 2 as derived, 1 as in the authors' code, 0 for ALQ-N.
        zero_level: hold a level that is exactly zero, with one level more below than above it, so that all codes are
            in use.

    References:
        Faghri et al., "Adaptive Gradient Quantization for Data-Parallel SGD", NeurIPS 2020 (ALQ, ALQ-N).
    """

    weight_exponent: int = 2
    zero_level: bool = False

    @property
    def adapts(self) -> bool:
        """Return True."""
        return True

    def update(self, statistics: GradientStatistics, current: Levels) -> LevelUpdate:
        """Return the fitted table of as many levels as ``current``, or one more beside a zero in its middle."""
        reason = unusable(statistics, self.weight_exponent)
        if reason:
            return keep(current, reason)
        own = current.values.astype(np.float64)
        if self.zero_level and len(own) % 2:
            own = np.insert(own, 1, own[:2].mean())  # the first table, symmetric about its zero, leaves one code over
        count = len(own)
        model = TruncatedNormalMixture.from_statistics(statistics)
        table = model.tabulated()
        begin = np.stack(
            [
                own,
                starts.exponential(count, starts.spread_multiplier(count)),
                starts.uniform(count),
                starts.quantiles(table, count),
                starts.companded(table, count),
            ]
        )
        begin = np.stack([starts.separated(start, starts.SMALLEST_GAP, zero=self.zero_level) for start in begin])
        pinned = np.arange(count) == count // 2 if self.zero_level else None
        tables = descend(table, begin, pinned=pinned, sweeps=_SWEEPS_OF_ALL)
        sweeps = min(max(100, 8 * count), 1000)
        best = tables[[int(psi(table, tables).argmin())]]
        return adopt(model, current, descend(table, best, pinned=pinned, sweeps=sweeps))
