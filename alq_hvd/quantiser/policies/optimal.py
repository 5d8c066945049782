"""The levels that minimise the expected variance of the gradients as they are, without a model of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.policies import starts
from alq_hvd.quantiser.policies.adoption import adopt, keep, unusable
from alq_hvd.quantiser.policies.base import LevelUpdate
from alq_hvd.quantiser.policies.descent import descend
from alq_hvd.quantiser.policies.distributions import Float64Array, Moments, PiecewiseUniform
from alq_hvd.quantiser.policies.dynamic_programming import clamp_costs, interval_costs, shortest_path
from alq_hvd.quantiser.statistics import GradientStatistics, bin_edges

COMPANDED_CANDIDATES = 160
GRID_CANDIDATES = 96
_SWEEPS = 12


@dataclass(frozen=True, slots=True)
class Optimal:
    """Minimise the objective of the empirical distribution by dynamic programming, then polish.

    1. Take the histogram as it is: exact mass and mean of every bin, weighted by norm**weight_exponent.
    2. Choose about 260 candidates, dense where the best levels are dense.
    3. Find the best table of candidates exactly, as a shortest path; see ``dynamic_programming``.
    4. Move each level to the best place between its neighbours, a few sweeps; see ``descent``.
    5. Adopt the result, if it beats the current table.

    The table uses all codes: ``2**bits`` levels even where the first table, symmetric about a zero, had one less.

    Attributes:
        weight_exponent: 2 minimises the error of the gradient itself; 0 that of the normalised coordinates.
        zero_level: one level is exactly zero, so that zeros travel without noise.
        free_ends: the outermost levels may leave -1 and 1. Coordinates beyond them are clamped; the squared bias is
            counted once, as for one rank. It does not average out over ranks, as the variance does.

    References:
        The objective: Faghri et al., NeurIPS 2020. Optimal scalar codebooks by dynamic programming: Bruce, "Optimum
        Quantization", MIT 1965; Zhang et al., "ZipML", ICML 2017, for unbiased rounding.
    """

    weight_exponent: int = 2
    zero_level: bool = False
    free_ends: bool = False

    @property
    def adapts(self) -> bool:
        """Return True."""
        return True

    def update(self, statistics: GradientStatistics, current: Levels) -> LevelUpdate:
        """Return the optimal table of as many levels as the codes of ``current`` can index."""
        reason = unusable(statistics, self.weight_exponent)
        if reason:
            return keep(current, reason)
        distribution = PiecewiseUniform.from_statistics(statistics)
        table = self.fit(distribution, 1 << current.minimum_bits)
        return adopt(distribution, current, table[None, :])

    def fit(self, distribution: PiecewiseUniform, count: int) -> Float64Array:
        """Return the best table of ``count`` levels, float64[count], for any distribution."""
        places = candidates(distribution, count)
        costs, start, end = self._graph(distribution, places)
        table = places[shortest_path(costs, start, end, count - 1)]
        pinned = table == 0 if self.zero_level else None
        polished: Float64Array = descend(distribution, table, pinned=pinned, sweeps=max(_SWEEPS, count))[0]
        return polished

    def _graph(self, distribution: PiecewiseUniform, places: Float64Array) -> tuple[Float64Array, ...]:
        """Return the costs of steps between, and of starting and ending at, the candidates ``places``."""
        below = distribution.cumulative(places)
        columns = Moments(*(part[:, None] for part in below))
        costs = interval_costs(places, places[:, None], below, columns)
        if self.free_ends:
            start, end = clamp_costs(distribution, places)
        else:
            start, end = (np.where(places == tip, 0.0, np.inf) for tip in (-1.0, 1.0))
        if self.zero_level:
            costs[(places[:, None] > 0) & (places < 0)] = np.inf
            start, end = np.where(places > 0, np.inf, start), np.where(places < 0, np.inf, end)
        return costs, start, end


def candidates(distribution: PiecewiseUniform, count: int) -> Float64Array:
    """Return where levels may be: companded points, where many are needed, and bin edges, in case they mislead."""
    edges = bin_edges()
    chosen = np.linspace(0, len(edges) - 1, GRID_CANDIDATES + count).round().astype(np.int64)
    companded = starts.companded(distribution, COMPANDED_CANDIDATES)
    places = np.unique(np.concatenate([companded, edges[chosen], [-1.0, 0.0, 1.0]]))
    places = places[np.concatenate([[True], np.diff(places) > starts.SMALLEST_GAP])]
    return np.concatenate([places[(places < -starts.SMALLEST_GAP)], [0.0], places[places > starts.SMALLEST_GAP]])
