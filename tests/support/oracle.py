"""The global optimum by brute force: dynamic programming on a fine grid, then twice on a finer one around the result.

Nothing here is shared with the package: these are the numbers its solvers are judged by.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.support.real_gradient import normalised

Cumulative = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


def best_table(cumulative: Cumulative, grid: np.ndarray, count: int, *, zero: bool = False) -> tuple[np.ndarray, float]:
    """Return the best table of ``count`` levels from -1 to 1 and its objective.

    Args:
        cumulative: points -> their zeroth, first and second moment from the left, the last point's being the whole.
        grid: increasing candidates; -1, 0 and 1 are added.
        count: how many levels.
        zero: demand a level at zero.
    """
    table, best = _path(cumulative, grid, count, zero)
    for width in (0.45, 0.1, 0.02):
        gaps = np.diff(table)
        reach = width * np.minimum(np.append(gaps, 0), np.insert(gaps, 0, 0))
        near = table[:, None] + reach[:, None] * np.linspace(-1, 1, 1 + 2 * (300 // count))
        table, best = _path(cumulative, np.append(table, near), count, zero)
    return table, best


def best_of_raw_samples(gradient: np.ndarray, bucket_size: int, norm: str, count: int, *, zero: bool = False) -> float:
    """Return the least relative variance of any table with ends -1 and 1, from prefix sums over sorted samples."""
    parts = normalised(gradient, bucket_size, norm)
    samples = np.concatenate([rows.ravel() for rows, _ in parts]).astype(np.float64)
    weights = np.concatenate([np.repeat(norms.astype(np.float64) ** 2, rows.shape[1]) for rows, norms in parts])
    order = np.argsort(samples)
    samples, weights = samples[order], weights[order]
    sums = [np.concatenate([[0.0], np.cumsum(weights * samples**power)]) for power in (0, 1, 2)]

    def cumulative(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.searchsorted(samples, points, side="right")
        return sums[0][at], sums[1][at], sums[2][at]

    magnitudes = np.geomspace(np.abs(samples).max() * 1e-5 + 1e-12, 1, 250)
    quantiles = samples[np.linspace(0, len(samples) - 1, 500).astype(int)]
    _, best = best_table(cumulative, np.concatenate([quantiles, magnitudes, -magnitudes]), count, zero=zero)
    return best / float((gradient.astype(np.float64) ** 2).sum())


def _path(cumulative: Cumulative, grid: np.ndarray, count: int, zero: bool) -> tuple[np.ndarray, float]:
    places = np.unique(np.concatenate([np.clip(grid, -1, 1), [-1.0, 0.0, 1.0]]))
    low, high = places[:, None], places
    mass, first, second = (part - part[:, None] for part in cumulative(places))
    cost = (low + high) * first - low * high * mass - second
    cost[low >= high] = np.inf
    if zero:
        cost[(low < 0) & (high > 0)] = np.inf
    total = np.where(np.arange(len(places)) == 0, 0.0, np.inf)
    back = []
    for _ in range(count - 1):
        reach = total[:, None] + cost
        back.append(reach.argmin(axis=0))
        total = reach.min(axis=0)
    path = [len(places) - 1]
    for step in reversed(back):
        path.append(int(step[path[-1]]))
    return places[path[::-1]], float(total[-1])
