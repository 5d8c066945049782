"""A table for each width of code, all fitted to the same statistics, and what each of them loses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alq_hvd.quantiser.config import NEAREST_ERRORS, QuantiserConfig, Rounding
from alq_hvd.quantiser.levels import MAXIMUM_BITS, Levels
from alq_hvd.quantiser.levels_by_width import LevelsByWidth
from alq_hvd.quantiser.policies.base import LevelUpdate, Policy
from alq_hvd.quantiser.policies.distributions import Distribution, PiecewiseUniform
from alq_hvd.quantiser.policies.objective import psi
from alq_hvd.quantiser.policies.truncated_normal import TruncatedNormalMixture
from alq_hvd.quantiser.statistics import GradientStatistics

SMALLEST_ERROR = 1e-12
"""What a table loses at least: coordinates that all lie on levels say nothing about the next ones."""


@dataclass(frozen=True, slots=True)
class ByWidth:
    """Fit a table for each width; see ``Policy``.

    Attributes:
        policies: one a width, from the lowest to 8 bits.
        rounding: of the codes.
    """

    policies: tuple[Policy, ...]
    rounding: Rounding = "stochastic"

    @property
    def adapts(self) -> bool:
        """Return whether the policies do."""
        return self.policies[0].adapts

    @property
    def weight_exponent(self) -> int:
        """Return that of the policies."""
        return self.policies[0].weight_exponent

    def update(self, statistics: GradientStatistics, current: LevelsByWidth) -> LevelUpdate:
        """Return the tables for the next steps, with what they lose of the statistics' coordinates.

        Objectives are sums over the tables.
        """
        parts = [policy.update(statistics, table) for policy, table in zip(self.policies, current.tables, strict=True)]
        before = math.fsum(part.objective_before for part in parts)
        after = math.fsum(part.objective_after for part in parts)
        if not any(part.levels is not table for part, table in zip(parts, current.tables, strict=True)):
            return LevelUpdate(current, before, after, parts[0].reason)
        tables = [part.levels for part in parts if isinstance(part.levels, Levels)]
        distribution = PiecewiseUniform.from_statistics(statistics)
        return LevelUpdate(current.next_version(tables, errors_of(tables, distribution)), before, after)


def initial_tables(tables: Sequence[Levels], config: QuantiserConfig) -> LevelsByWidth:
    """Return the tables in use until the first adaptation, with what they lose of normal coordinates.

    Args:
        tables: one a width, the last of 8 bits.
        config: how coordinates become codes.
    """
    lowest = MAXIMUM_BITS + 1 - len(tables)
    if config.rounding == "nearest":
        return LevelsByWidth(lowest, tuple(tables), np.array(NEAREST_ERRORS[lowest - 1 :], dtype=np.float32))
    size = config.bucket_size
    # The largest of d normal coordinates lies near sqrt(2 ln d) deviations.
    deviation = 1 / math.sqrt(size if config.norm == "l2" else max(2 * math.log(size), 1))
    normal = TruncatedNormalMixture.of(0.0, deviation)
    return LevelsByWidth(lowest, tuple(tables), errors_of(tables, normal))


def errors_of(tables: Sequence[Levels], distribution: Distribution) -> npt.NDArray[np.float32]:
    """Return float32[len(tables)]: the expected squared error of a coordinate over its mean square."""
    square = float(distribution.cumulative(1.0).second)
    errors = [float(psi(distribution, table.values)) / square for table in tables]
    return np.array([max(error, SMALLEST_ERROR) for error in errors], dtype=np.float32)
