"""The objective every adaptive method lowers: the expected variance of one normalised coordinate."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alq_hvd.quantiser.policies.distributions import Distribution, Float64Array


def psi(distribution: Distribution, levels: npt.ArrayLike) -> Float64Array:
    """Return E|Q(r) - r|^2 for increasing ``levels``, float64[..., count]; the result is float64[...].

    Between two levels c <= r <= e rounding is unbiased and its variance is (e - r)(r - c), whose expectation is
    (c + e) I1 - c e I0 - I2 with the moments I0, I1, I2 of the interval. A coordinate outside the table is clamped
    to its end; the squared distance, a bias, is counted in full.

    References:
        Faghri et al., "Adaptive Gradient Quantization for Data-Parallel SGD", NeurIPS 2020 (the expected normalised
        variance); the closed form in moments is derived by expanding the product.
    """
    table = np.asarray(levels, dtype=np.float64)
    below = distribution.cumulative(table)
    whole = distribution.cumulative(1.0)
    low, high = table[..., :-1], table[..., 1:]
    mass, first, second = (np.diff(part, axis=-1) for part in below)
    inside = ((low + high) * first - low * high * mass - second).sum(axis=-1)
    bottom, top = table[..., 0], table[..., -1]
    under = below.second[..., 0] - 2 * bottom * below.first[..., 0] + bottom**2 * below.mass[..., 0]
    over = (
        (whole.second - below.second[..., -1])
        - 2 * top * (whole.first - below.first[..., -1])
        + top**2 * (whole.mass - below.mass[..., -1])
    )
    return np.asarray(inside + under + over)


def gradient(distribution: Distribution, levels: npt.ArrayLike) -> Float64Array:
    """Return dPsi/dl of the interior levels, float64[..., count - 2].

    For neighbours c < x < e: dPsi/dx = int_c^x (r - c) dF - int_x^e (e - r) dF.

    References:
        Derived from the objective; its root in x is the coordinate update of Faghri et al. 2020 (ALQ).
    """
    table = np.asarray(levels, dtype=np.float64)
    below = distribution.cumulative(table)
    mass, first = np.diff(below.mass, axis=-1), np.diff(below.first, axis=-1)
    left = first[..., :-1] - table[..., :-2] * mass[..., :-1]
    right = table[..., 2:] * mass[..., 1:] - first[..., 1:]
    return np.asarray(left - right)
