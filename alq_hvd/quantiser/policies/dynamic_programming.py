"""The best table whose levels are taken from given candidates, exactly: a shortest path of a given length."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alq_hvd.quantiser.policies.distributions import Distribution, Float64Array, Moments


def interval_costs(low: Float64Array, high: Float64Array, below_low: Moments, below_high: Moments) -> Float64Array:
    """Return the expected variance of the coordinates between neighbouring levels ``low`` and ``high``.

    All arrays broadcast; where ``low`` is not below ``high`` the cost is infinite.
    """
    mass, first, second = (up - down for up, down in zip(below_high, below_low, strict=True))
    cost = (low + high) * first - low * high * mass - second
    return np.where(low < high, cost, np.inf)


def clamp_costs(distribution: Distribution, points: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return E (r - x)^2 over r < x and over r > x for every point x: what it costs to end the table there."""
    below, whole = distribution.cumulative(points), distribution.cumulative(1.0)
    under = below.second - 2 * points * below.first + points**2 * below.mass
    over = whole.second - below.second - 2 * points * (whole.first - below.first)
    return under, over + points**2 * (whole.mass - below.mass)


def shortest_path(costs: Float64Array, start: Float64Array, end: Float64Array, steps: int) -> npt.NDArray[np.int64]:
    """Return the indices, int64[steps + 1], of the cheapest increasing path of ``steps`` steps.

    Args:
        costs: float64[n, n]; ``costs[j, i]`` is the cost of the step from candidate i to candidate j, infinite
            unless i < j.
        start: float64[n], the cost of starting at each candidate.
        end: float64[n], the cost of ending there.
        steps: how many intervals the path has, at most n - 1.
    """
    slack = len(start) - 1 - steps
    total = start[: slack + 1]
    came_from = []
    for step in range(1, steps + 1):
        sums = costs[step : step + slack + 1, step - 1 : step + slack] + total
        best = sums.argmin(axis=1)
        total = sums[np.arange(slack + 1), best]
        came_from.append(best + step - 1)
    place = int((total + end[steps:]).argmin()) + steps
    path = [place]
    for step in range(steps, 0, -1):
        place = int(came_from[step - 1][place - step])
        path.append(place)
    return np.array(path[::-1], dtype=np.int64)
