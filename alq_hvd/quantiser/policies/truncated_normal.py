"""The published model: a weighted mixture of one truncated normal a bucket, with closed-form moments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from alq_hvd.quantiser.policies.distributions import Float64Array, Moments, PiecewiseUniform
from alq_hvd.quantiser.statistics import GradientStatistics

SMALLEST_DEVIATION = 1e-6
"""A bucket of equal coordinates has no deviation; its normal is given this one so that it keeps a density."""
_TAIL = np.geomspace(4.5, 40, 12)
_MAXIMUM_CELLS = 24


@dataclass(frozen=True, eq=False)
class TruncatedNormalMixture:
    """Mix normal distributions truncated to [-1, 1].

    Attributes:
        mean: float64[components], of the normal before truncation.
        deviation: float64[components], positive, of the normal before truncation.
        weight: float64[components], positive, summing to 1.

    References:
        Faghri et al., "Adaptive Gradient Quantization for Data-Parallel SGD", NeurIPS 2020 (the model); moments of
        a truncated normal: Johnson, Kotz and Balakrishnan, "Continuous Univariate Distributions", volume 1, 13.10.
    """

    mean: Float64Array
    deviation: Float64Array
    weight: Float64Array

    @classmethod
    def of(cls, mean: npt.ArrayLike, deviation: npt.ArrayLike, weight: npt.ArrayLike = 1.0) -> TruncatedNormalMixture:
        """Return the mixture of broadcast arguments; weights are scaled to sum to 1, deviations kept above 1e-6."""
        means, deviations, weights = np.broadcast_arrays(
            *(np.atleast_1d(np.asarray(part, dtype=np.float64)) for part in (mean, deviation, weight))
        )
        return cls(means, np.maximum(deviations, SMALLEST_DEVIATION), weights / weights.sum())

    @classmethod
    def from_statistics(cls, statistics: GradientStatistics) -> TruncatedNormalMixture:
        """Return the published model of usable statistics.

        With weight exponent 1 or 2, one component for each kept bucket, weighing norm**exponent: the error of a
        bucket is norm**2 times that of its normalised coordinates, so 2 is the right one, and 1 is what the
        authors' public code does. With exponent 0 (the -N methods), or when no bucket was complete, one component
        with the pooled mean and the pooled within-bucket deviation.

        Sample moments stand for the parameters of the normal before truncation, as published: that is fair while the
        deviation is below about 0.3. In buckets of fewer than ten coordinates it is not; ``Optimal`` is.
        """
        if statistics.weight_exponent == 0 or len(statistics.buckets) == 0:
            count = statistics.coordinates
            return cls.of(statistics.pooled_sum / count, math.sqrt(statistics.pooled_squares / count))
        norm, mean, deviation = statistics.buckets.T
        return cls.of(mean, deviation, (norm / norm.max()) ** statistics.weight_exponent)

    def cumulative(self, points: npt.ArrayLike) -> Moments:
        """Return the moments of the coordinates at or below ``points``; float64 of the shape of ``points``."""
        end = np.asarray(points, dtype=np.float64)
        mass, first, second = self._between(np.full(end.size, -1.0), end.ravel())
        return Moments(mass.reshape(end.shape), first.reshape(end.shape), second.reshape(end.shape))

    def _between(self, low: Float64Array, high: Float64Array) -> Moments:
        """Return the moments of the intervals [low, high], float64[n] each, summed over the components."""
        mean, sigma = self.mean[:, None], self.deviation[:, None]
        share = (self.weight / self._normaliser)[:, None]
        alpha, beta = (low - mean) / sigma, (high - mean) / sigma
        mass = share * interval_mass(alpha, beta)
        f_low, f_high = (share * np.exp(-0.5 * z * z) / (sigma * math.sqrt(2 * math.pi)) for z in (alpha, beta))
        variance = sigma * sigma
        first = mean * mass - variance * (f_high - f_low)
        second = mean * first + variance * mass - variance * (high * f_high - low * f_low)
        return Moments(mass.sum(axis=0), first.sum(axis=0), second.sum(axis=0))

    @cached_property
    def _normaliser(self) -> Float64Array:
        return interval_mass((-1 - self.mean) / self.deviation, (1 - self.mean) / self.deviation)

    def merged(self) -> TruncatedNormalMixture:
        """Return at most 24 components: alike ones are replaced by one of the same mean and variance.

        Components are alike when their deviations fall in the same eighth of an octave and their means in the same
        tenth of the smallest deviation; both cells are doubled until few enough remain.
        """
        scale = np.log2(self.deviation) * 8
        place = self.mean / self.deviation.min() * 10
        for doubling in range(64):
            cells = np.stack([np.floor(part / 2.0**doubling) for part in (scale, place)], axis=1)
            _, cell = np.unique(cells, axis=0, return_inverse=True)
            cell = cell.ravel()
            if cell.max() < _MAXIMUM_CELLS:
                break
        weight = np.bincount(cell, self.weight)
        mean = np.bincount(cell, self.weight * self.mean) / weight
        spread = self.deviation**2 + (self.mean - mean[cell]) ** 2
        return TruncatedNormalMixture.of(mean, np.sqrt(np.bincount(cell, self.weight * spread) / weight), weight)

    def tabulated(self) -> PiecewiseUniform:
        """Return the piecewise uniform distribution that solvers work on.

        Its bins are a thirtieth to a quarter of a deviation wide around the mean of each component (the fewer
        components, the finer), wider in the tails, and have the closed-form mass and mean of the merged mixture.
        """
        model = self.merged()
        inner = np.linspace(-4.25, 4.25, 1 + 2 * max(128 // len(model.weight), 17))
        grid = np.concatenate([-_TAIL, inner, _TAIL])
        around = (model.mean[:, None] + model.deviation[:, None] * grid).ravel()
        edges = np.unique(np.concatenate([[-1.0, 1.0], around[np.abs(around) < 1]]))
        edges = edges[np.concatenate([[True], np.diff(edges) > 1e-12])]
        edges[-1] = 1.0
        mass, first, _ = model._between(edges[:-1], edges[1:])
        return PiecewiseUniform.from_bins(edges, mass, first)


def interval_mass(alpha: Float64Array, beta: Float64Array) -> Float64Array:
    """Return the standard normal mass of [alpha, beta], to full relative precision in either tail.

    An interval on the right of the mean is measured by survival functions: the difference of distribution functions
    near 1 would lose every digit beyond eight deviations.
    """
    right = alpha > 0
    return np.asarray(ndtr(np.where(right, -alpha, beta)) - ndtr(np.where(right, -beta, alpha)))
