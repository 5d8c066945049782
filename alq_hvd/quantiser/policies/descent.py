"""Coordinate descent on the objective by the closed-form update, for several starting tables at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alq_hvd.quantiser.policies.distributions import Float64Array, Moments, PiecewiseUniform
from alq_hvd.quantiser.policies.starts import SMALLEST_GAP

_EMPTY = 1e-13
"""An interval of less mass than this is empty as far as float64 prefix sums can tell."""


def best_between(
    distribution: PiecewiseUniform, low: Float64Array, high: Float64Array, below_low: Moments, below_high: Moments
) -> Float64Array:
    """Return the best single level between each pair of fixed neighbours, float64 of their shape.

    The objective is convex in one level x; its derivative vanishes where the distribution function at x equals its
    mean over the interval: F(x) = F(e) - [I1 - c I0](c, e) / (e - c). In an interval without mass F is flat, every
    level is as good as any other, and the midpoint is returned: there the authors' closed form returns the right
    neighbour and fails its own ordering check.

    Args:
        distribution: of the coordinates.
        low: left neighbours c.
        high: right neighbours e.
        below_low: ``distribution.cumulative(low)``.
        below_high: ``distribution.cumulative(high)``.

    References:
        Faghri et al. 2020, the closed-form coordinate update of ALQ.
    """
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
    below = distribution.cumulative(tables)
    interior = np.arange(1, tables.shape[1] - 1)
    if pinned is not None:
        interior = interior[~pinned[1:-1]]
    turns = [chosen for chosen in (interior[interior % 2 == 1], interior[interior % 2 == 0]) if len(chosen)]
    enough = tolerance * float((tables[:, -1] - tables[:, 0]).max())
    for _ in range(sweeps):
        moved = 0.0
        for chosen in turns:
            sides = [
                (tables[:, side], Moments(*(part[:, side] for part in below))) for side in (chosen - 1, chosen + 1)
            ]
            (low, below_low), (high, below_high) = sides
            better = best_between(distribution, low, high, below_low, below_high)
            moved = max(moved, float(np.abs(better - tables[:, chosen]).max()))
            tables[:, chosen] = better
            for part, update in zip(below, distribution.cumulative(better), strict=True):
                part[:, chosen] = update
        if moved < enough:
            break
    return tables
