"""Coordinate descent on the objective by the closed-form update, for several starting tables at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alq_hvd.policies.distributions import Float64Array, PiecewiseUniform

SMALLEST_GAP = 2e-7
"""Distance kept between neighbours, so that they stay 1e-7 apart after rounding to float32."""
_EMPTY = 1e-13
"""An interval of less mass than this is empty as far as float64 prefix sums can tell."""


def best_between(distribution: PiecewiseUniform, low: Float64Array, high: Float64Array) -> Float64Array:
    """Return the best single level between each pair of fixed neighbours, float64 of their shape.

    The objective is convex in one level x; its derivative vanishes where the distribution function at x equals its
    mean over the interval: F(x) = F(e) - [I1 - c I0](c, e) / (e - c). In an interval without mass F is flat, every
    level is as good as any other, and the midpoint is returned: there the authors' closed form returns the right
    neighbour and fails its own ordering check.

    References:
        Faghri et al. 2020, the closed-form coordinate update of ALQ.
    """
    below_low, below_high = distribution.cumulative(low), distribution.cumulative(high)
    mass, first = below_high.mass - below_low.mass, below_high.first - below_low.first
    level = distribution.quantile(below_high.mass - (first - low * mass) / (high - low))
    level = np.where(mass > _EMPTY, level, (low + high) / 2)
    return np.clip(level, low + SMALLEST_GAP, high - SMALLEST_GAP)


def descend(
    distribution: PiecewiseUniform,
    tables: Float64Array,
    *,
    pinned: npt.NDArray[np.bool_] | None = None,
    sweeps: int = 100,
    tolerance: float = 1e-6,
) -> Float64Array:
    """Return the tables, float64[starts, count], after cyclic coordinate descent on each of them.

    1. Move every second interior level to the best place between its neighbours; they do not interact.
    2. Move the others.
    3. Repeat until no level moved by more than ``tolerance`` of the range, or ``sweeps`` are done.

    The objective never rises: every move is the minimum over one coordinate. The ends stay where they are, and so
    do levels that ``pinned``, bool[count], marks (a level at zero).
    """
    tables = np.array(tables, dtype=np.float64, ndmin=2)
    count = tables.shape[1]
    interior = np.arange(1, count - 1)
    if pinned is not None:
        interior = interior[~pinned[1:-1]]
    span = tables[:, -1:] - tables[:, :1]
    for _ in range(sweeps):
        moved = 0.0
        for parity in (1, 0):
            chosen = interior[interior % 2 == parity]
            if len(chosen):
                better = best_between(distribution, tables[:, chosen - 1], tables[:, chosen + 1])
                moved = max(moved, float((np.abs(better - tables[:, chosen]) / span).max()))
                tables[:, chosen] = better
        if moved < tolerance:
            break
    return tables
