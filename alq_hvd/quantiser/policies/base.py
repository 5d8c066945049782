"""What a level policy is: a pure function from statistics and current levels to new levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from alq_hvd.quantiser.levels_by_width import AnyLevels
from alq_hvd.quantiser.statistics import GradientStatistics


@dataclass(frozen=True, slots=True)
class LevelUpdate:
    """Tell what one adaptation did.

    Attributes:
        levels: the table to use from now on; the current one, unchanged, when nothing better was found.
        objective_before: expected variance per coordinate, in the policy's own model, of the current table.
        objective_after: the same of ``levels``; never larger than before.
        reason: one sentence for the log when the current table was kept, empty when it was replaced.
    """

    levels: AnyLevels
    objective_before: float
    objective_after: float
    reason: str = ""


class Policy(Protocol):
    """Fit levels to statistics. Implementations are frozen dataclasses without state, devices or ranks."""

    @property
    def adapts(self) -> bool:
        """Return False when ``update`` never changes anything, so that no statistics need to be gathered."""
        ...

    @property
    def weight_exponent(self) -> int:
        """Return the power of a bucket's norm (0, 1, 2) by which the statistics must be weighted."""
        ...

    def update(self, statistics: GradientStatistics, current: Any) -> LevelUpdate:
        """Return the table for the next steps; deterministic, in float64.

        Args:
            statistics: of the gradients.
            current: ``Levels``; ``LevelsByWidth`` for ``ByWidth``.

        Raises:
            ConfigurationError: when the statistics are weighted otherwise than ``weight_exponent``.
        """
        ...
