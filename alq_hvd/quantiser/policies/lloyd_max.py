"""The levels of least error for a normal coordinate that is rounded to the nearest: what rotated coordinates are."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.special import ndtr, ndtri

from alq_hvd.quantiser.config import require_int
from alq_hvd.quantiser.levels import MAXIMUM_BITS, Levels
from alq_hvd.quantiser.policies.distributions import Float64Array

_TOLERANCE = 1e-9
_GRID = 2.0**-20
"""Levels are rounded to this, far finer than matters, so that no mathematical library's last bit shows."""


@lru_cache(maxsize=MAXIMUM_BITS)
def lloyd_max(bits: int) -> Levels:
    """Return the 2^bits levels of least squared error for a normal coordinate, the outermost scaled to 1.

    Each level is the mean of the normal between the midpoints to its neighbours. Newton's method solves for all
    positive levels together, from quantiles of the density that is best in the limit of many levels.

    Raises:
        ConfigurationError: when ``bits`` is not 1 to 8.

    References:
        Max, "Quantizing for Minimum Distortion", IRE Transactions on Information Theory 6(1), 1960; Lloyd, "Least
        Squares Quantization in PCM", IEEE Transactions on Information Theory 28(2), 1982.
    """
    require_int("bits", bits, 1, MAXIMUM_BITS)
    count = 1 << (bits - 1)
    levels: Float64Array = np.sqrt(3) * ndtri(0.5 + (np.arange(count) + 0.5) / (2 * count))
    for _ in range(50):
        step = np.linalg.solve(_slopes(levels), levels - _centroids(levels))
        levels = levels - step
        if np.abs(step).max() < _TOLERANCE:
            break
    places = np.round(levels / levels[-1] / _GRID) * _GRID
    return Levels(np.concatenate([-places[::-1], places]).astype(np.float32))


def _ends(levels: Float64Array) -> Float64Array:
    """Return float64[count + 1]: zero, the midpoints between positive levels, infinity."""
    return np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2, [np.inf]])


def _density(at: Float64Array) -> Float64Array:
    return np.asarray(np.exp(-np.square(at) / 2) / np.sqrt(2 * np.pi))


def _centroids(levels: Float64Array) -> Float64Array:
    ends = _ends(levels)
    density, above = _density(ends), ndtr(-ends)
    return np.asarray((density[:-1] - density[1:]) / (above[:-1] - above[1:]))


def _slopes(levels: Float64Array) -> Float64Array:
    """Return the derivative of ``levels - _centroids(levels)``, a tridiagonal float64[count, count]."""
    ends = _ends(levels)
    mass = ndtr(-ends[:-1]) - ndtr(-ends[1:])
    centroids, inner, density = _centroids(levels), ends[1:-1], _density(ends[1:-1])
    upper = density * (inner - centroids[:-1]) / mass[:-1] / 2  # of a centroid by its upper end, through a midpoint
    lower = density * (centroids[1:] - inner) / mass[1:] / 2
    slopes = np.eye(len(levels))
    rows = np.arange(len(levels) - 1)
    slopes[rows, rows] -= upper
    slopes[rows, rows + 1] -= upper
    slopes[rows + 1, rows] -= lower
    slopes[rows + 1, rows + 1] -= lower
    return slopes
