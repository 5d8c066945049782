"""Upper bounds of the relative variance E|Q(v) - v|^2 / |v|_2^2 of one bucket, for every vector there is.

``dimension`` is the bucket size d. The mean of n independent ranks has 1/n of the variance.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from alq_hvd.errors import ConfigurationError


def levels_bound(levels: npt.ArrayLike, dimension: int) -> float:
    """Return a bound for any table that reaches from -1 to 1, Euclidean or maximum norm; ALQ's own bound.

    With a zero level it is (rho - 1)^2 / (4 rho) + g(l_1 sqrt(d)), where rho is the largest ratio of neighbouring
    magnitudes, l_1 the smallest magnitude, and g(a) = a^2/4 up to a = 2, a - 1 beyond. Without one, coordinates in the
    central bin [a, b] add up to ((b - a)/2)^2 each, d ((b - a)/2)^2 in all.

    Args:
        levels: increasing, first -1, last 1.
        dimension: bucket size.

    Raises:
        ConfigurationError: when the table does not reach from -1 to 1: clamping has no such bound.

    References:
        Faghri et al., NeurIPS 2020, the variance bound for arbitrary levels; the closed infimum and the central bin
        are derived: on [l, tl] the maximum of (tl - r)(r - l)/r^2 is (t - 1)^2 / (4t).
    """
    table = np.asarray(levels, dtype=np.float64)
    if table[0] != -1 or table[-1] != 1:
        raise ConfigurationError(f"expected levels from -1 to 1, got {table[0]:g} to {table[-1]:g}")
    sides = [table[table > 0], -table[table < 0][::-1]]
    ratio = max(float((side[1:] / side[:-1]).max(initial=1.0)) for side in sides)
    smallest = [float(side[0]) for side in sides]
    if np.any(table == 0):
        return ratio_term(ratio) + first_interval_term(max(smallest), dimension)
    return ratio_term(ratio) + dimension * (sum(smallest) / 2) ** 2


def ratio_term(ratio: float) -> float:
    """Return (rho - 1)^2 / (4 rho): what coordinates between nonzero levels contribute at most."""
    return (ratio - 1) ** 2 / (4 * ratio)


def first_interval_term(smallest: float, dimension: int) -> float:
    """Return what coordinates between zero and the smallest level contribute at most; attained."""
    reach = smallest * math.sqrt(dimension)
    return reach**2 / 4 if reach <= 2 else reach - 1


def qsgd_bound(intervals: int, dimension: int) -> float:
    """Return min(d / s^2, sqrt(d) / s) for uniform levels 0, 1/s, ..., 1 and signs.

    References:
        Alistarh et al., "QSGD", NeurIPS 2017, Lemma 3.1.
    """
    return min(dimension / intervals**2, math.sqrt(dimension) / intervals)


def amq_bound(multiplier: float, largest_exponent: int, dimension: int) -> float:
    """Return the bound for levels 0, p^s, ..., p, 1 and signs.

    References:
        Faghri et al., NeurIPS 2020 (AMQ), by the general bound with rho = 1/p and l_1 = p^s.
    """
    return ratio_term(1 / multiplier) + first_interval_term(multiplier**largest_exponent, dimension)


def nuqsgd_bound(largest_exponent: int, dimension: int) -> float:
    """Return 1/8 + 2^(-2s-2) d for d <= 2^(2s+2), else 2^-s sqrt(d) - 7/8: levels 0, 2^-s, ..., 1/2, 1 and signs.

    References:
        Ramezani-Kebrya et al., "NUQSGD", JMLR 22 (2021), the variance bound; re-derived with the exact infimum.
    """
    return amq_bound(0.5, largest_exponent, dimension)


def nuqsgd_without_zero(largest_exponent: int, dimension: int) -> float:
    """Return d 4^-s - 1: the exact relative variance of the table without a zero, when no |r| exceeds 2^-s.

    With Euclidean norms that is the usual case in large buckets: 127 at 3 bits and d = 8192. The table with a zero,
    which the theory is about, is bounded by ``nuqsgd_bound`` instead.
    """
    return dimension * 4.0**-largest_exponent - 1


def terngrad_bound(dimension: int) -> float:
    """Return (sqrt(d) - 1) / 2 for levels -1, 0, 1 and the maximum norm, without clipping; attained.

    The variance is |v|_inf |v|_1 - |v|_2^2; it is largest when one coordinate is sqrt(d) + 1 times the others.

    References:
        The quantiser: Wen et al., "TernGrad", NeurIPS 2017; the bound is derived here.
    """
    return (math.sqrt(dimension) - 1) / 2
