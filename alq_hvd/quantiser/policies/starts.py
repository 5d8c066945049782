"""Tables from which a solver may start, and the fixed tables of the methods that never adapt."""

from __future__ import annotations

import numpy as np

from alq_hvd.quantiser.policies.distributions import Float64Array, PiecewiseUniform

SMALLEST_MAGNITUDE = 2.0**-23
"""A float32 table cannot hold levels beside zero that are closer than its smallest gap of 1e-7."""

SMALLEST_GAP = 2e-7
"""Distance kept between neighbours, so that they stay 1e-7 apart after rounding to float32."""


def uniform(count: int) -> Float64Array:
    """Return ``count`` equally spaced levels from -1 to 1, the quantisation points of QSGD; an odd count has a zero.

    References:
        Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", NeurIPS 2017.
    """
    return np.linspace(-1.0, 1.0, count)


def exponential(count: int, multiplier: float = 0.5) -> Float64Array:
    """Return the levels +-p^j, j = 0, 1, ..., of which ``count`` fit; an odd count has a zero in the middle.

    References:
        Ramezani-Kebrya et al., "NUQSGD", JMLR 22 (2021), with p = 1/2.
    """
    return np.asarray(exponentials(count, np.array([multiplier]))[0])


def exponentials(count: int, multipliers: Float64Array) -> Float64Array:
    """Return one exponential table for each multiplier: float64[multipliers, count]."""
    magnitudes = multipliers[:, None] ** np.arange(count // 2)
    return np.concatenate([-magnitudes, np.zeros((len(multipliers), count % 2)), magnitudes[:, ::-1]], axis=1)


def spread_multiplier(count: int) -> float:
    """Return the multiplier with which adaptive methods start: 1/2 up to 32 levels.

    Beyond, it is the larger number whose smallest level is 2^-15, so that float32 holds all levels apart.
    """
    return float(2.0 ** (-15 / max(count // 2 - 1, 15)))


def quantiles(distribution: PiecewiseUniform, count: int) -> Float64Array:
    """Return levels at equally spaced values k/(count - 1) of the distribution function, with ends -1 and 1."""
    return _with_ends(distribution.quantile(np.arange(count) / (count - 1)))


def companded(distribution: PiecewiseUniform, count: int) -> Float64Array:
    """Return levels at equally spaced values of the integral of density^(1/3), with ends -1 and 1.

    With many levels, a gap h around a coordinate of density f costs h^2 f/6 per unit length; for a given number of
    levels the sum is least when h is proportional to f^(-1/3).

    References:
        Panter and Dite, "Quantization Distortion in Pulse-Count Modulation with Nonuniform Spacing of Levels",
        Proceedings of the IRE 39 (1951): the same argument for deterministic rounding.
    """
    spread = np.cbrt(distribution.density[:-1]) * np.diff(distribution.nodes)
    integral = np.concatenate([[0.0], np.cumsum(spread)])
    return _with_ends(np.interp(np.linspace(0, integral[-1], count), integral, distribution.nodes))


def separated(table: Float64Array, gap: float, *, zero: bool = False) -> Float64Array:
    """Return a table near ``table``, float64[count], increasing within [-1, 1], whose neighbours are ``gap`` apart.

    With ``zero`` the level at ``count // 2`` becomes zero, and those on either side of it keep to their side.
    Levels that are far enough apart do not move.
    """
    steps = gap * np.arange(len(table))
    if zero:
        middle = len(table) // 2
        away = steps - steps[middle]
        table = np.concatenate([np.minimum(table, away)[:middle], [0.0], np.maximum(table, away)[middle + 1 :]])
    upward = np.maximum.accumulate(np.clip(table, -1, 1) - steps) + steps
    moved = np.minimum(upward, 1 - steps[::-1])
    return np.where(np.abs(moved - table) < gap / 1000, table, moved)


def _with_ends(table: Float64Array) -> Float64Array:
    table[0], table[-1] = -1.0, 1.0
    return table
