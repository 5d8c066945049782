"""What a solver may ask of the distribution of a normalised coordinate, and the one shape all solvers work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from alq_hvd.quantiser.statistics import GradientStatistics, bin_edges

Float64Array = npt.NDArray[np.float64]
_NARROWEST = 1e-300
"""A narrower piece is an atom: its density would overflow."""


class Moments(NamedTuple):
    """Hold the mass, first and second moment of the coordinates at or below some points: float64, shaped alike."""

    mass: Float64Array
    first: Float64Array
    second: Float64Array


class Distribution(Protocol):
    """A probability distribution on [-1, 1]."""

    def cumulative(self, points: npt.ArrayLike) -> Moments:
        """Return the moments of the coordinates at or below ``points``, of any shape, each within [-1, 1].

        The moments at 1 are those of the whole distribution; its mass is 1.
        """
        ...


@dataclass(frozen=True, eq=False)
class PiecewiseUniform:
    """Uniform between neighbouring nodes; a piece of no width is an atom.

    The distribution function is piecewise linear, so that moments and quantiles are closed forms. ``from_bins``
    makes one that has the exact mass and the exact mean of every bin, whatever the bins came from.

    Attributes:
        nodes: float64[pieces + 1], from -1 to 1, never decreasing.
        below: moments below each node, without an atom that starts there; float64[pieces + 1] each.
        density: float64[pieces + 1], of the piece that starts at each node; 0 for atoms and for the last node.
    """

    nodes: Float64Array
    below: Moments
    density: Float64Array

    @classmethod
    def from_bins(cls, edges: Float64Array, mass: Float64Array, first_moment: Float64Array) -> PiecewiseUniform:
        """Return the distribution with the given mass and first moment, float64[bins], between ``edges``.

        A bin [a, b] of mean m becomes two uniform pieces that meet at m, the left one with (b - m)/(b - a) of the
        mass: the only such split that keeps the mean. A bin whose mean is one of its ends becomes an atom there.
        Masses are scaled to 1.
        """
        low, high = edges[:-1], edges[1:]
        total = mass.sum()
        share = mass / total
        mean = np.divide(first_moment / total, share, out=(low + high) / 2, where=share > 0)
        mean = np.clip(mean, low, high)
        left = share * (high - mean) / (high - low)
        nodes = np.empty(2 * len(mass) + 1)
        nodes[0::2], nodes[1::2] = edges, mean
        pieces = np.stack([left, share - left], axis=1).ravel()
        start, end = nodes[:-1], nodes[1:]
        parts = (pieces, pieces * (start + end) / 2, pieces * (start * start + start * end + end * end) / 3)
        density = np.zeros(len(nodes))
        np.divide(pieces, end - start, out=density[:-1], where=end - start > _NARROWEST)
        below = Moments(*(np.concatenate([[0.0], np.cumsum(part)]) for part in parts))
        return cls(nodes, below, density)

    @classmethod
    def from_statistics(cls, statistics: GradientStatistics) -> PiecewiseUniform:
        """Return the empirical distribution of usable statistics: exact mass and mean in each bin of the histogram.

        At bin edges, expected variances follow from these exactly but for the within-bin second moment, which does
        not depend on the levels.
        """
        return cls.from_bins(bin_edges(), statistics.mass, statistics.first_moment)

    def cumulative(self, points: npt.ArrayLike) -> Moments:
        """Return the moments at or below ``points``, atoms included; float64 of the shape of ``points``."""
        end = np.asarray(points, dtype=np.float64)
        piece = np.maximum(np.searchsorted(self.nodes, end, side="right") - 1, 0)
        start = self.nodes[piece]
        mass = self.density[piece] * (end - start)
        return Moments(
            self.below.mass[piece] + mass,
            self.below.first[piece] + mass * (start + end) / 2,
            self.below.second[piece] + mass * (start * start + start * end + end * end) / 3,
        )

    def quantile(self, probability: npt.ArrayLike) -> Float64Array:
        """Return the points where the distribution function reaches ``probability``, each in [0, 1]."""
        return np.asarray(np.interp(np.asarray(probability, dtype=np.float64), self.below.mass, self.nodes))
