"""Solve min over a > 0 and b of sum D (w - a b)^2, every entry of b in a fixed grid of magnitudes times a sign.

Given b the scale is a = C / A with C = sum D b w and A = sum D b^2, and the error is sum D w^2 - C^2 / A: an exact
solver maximises C^2 / A. Given a, each entry of b is the allowed value nearest to w / a, whatever D is.

Weights come as magnitudes, float[d]; the curvature D is float[d], positive, or ``None`` where it is the same
everywhere. Sums are taken in float64. Nothing here waits for a device.

References:
    Hou, Yao, Kwok, "Loss-aware Binarization of Deep Networks", ICLR 2017, and Hou, Kwok, "Loss-aware Weight
    Quantization of Deep Networks", ICLR 2018, pose the problem; they solve it by alternation. The sweep over
    breakpoints is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from alq_hvd import backends

Tensor: TypeAlias = Any
"""A ``torch.Tensor``; torch is imported in one place only."""
torch = backends.torch()

EXACT_EVENTS = 4_000_000
"""Breakpoints up to which ``solve`` sweeps all of them: a few hundred MB, about a second on one core."""
_STARTS, _REACHES = 20, (1.2, 1.05)
"""Of the search: three times twenty starts, because the error has many minima from six bits on."""
_CLOSE = (1.004, 1 / 1.004, 1.02, 1 / 1.02)
"""Of a warm start: ratios to its neighbours."""


def solve(magnitudes: Tensor, curvature: Tensor | None, grid: Sequence[float]) -> Tensor:
    """Return the best scale, a 0-d tensor: exact up to ``EXACT_EVENTS`` breakpoints, by many starts beyond.

    Args:
        magnitudes: |w|, float[d], d >= 1.
        curvature: D, float[d], or ``None`` for 1.
        grid: increasing magnitudes of b from 0 or more to 1. With one entry, 1, this is the closed form of binary
            weights; with two, 0 and 1, a scan of prefixes of the sorted weights.
    """
    if magnitudes.numel() * (len(grid) - 1) > EXACT_EVENTS:
        return search(magnitudes, curvature, grid)
    return sweep(magnitudes, curvature, grid)


def sweep(magnitudes: Tensor, curvature: Tensor | None, grid: Sequence[float]) -> Tensor:
    """Return the exactly best scale, a 0-d tensor, in O(d k log d k) for k = ``len(grid) - 1``; 0 for zero weights.

    As 1 / a grows from 0, entry i goes from grid[j] to grid[j + 1] when a falls below |w_i| / mid_j, mid_j between the
    two. 1. Sort these breakpoints. 2. Add up what each adds to C and A. 3. Keep the prefix with the largest C^2 / A.
    """
    wide = magnitudes.double()
    weight = torch.ones_like(wide) if curvature is None else curvature.double()
    first = float(grid[0])
    moment, mass = first * (weight * wide).sum(), first**2 * weight.sum()
    if len(grid) > 1:
        table = torch.tensor(grid, dtype=torch.float64, device=magnitudes.device)
        middles = ((table[1:] + table[:-1]) / 2).to(magnitudes.dtype)
        order = (magnitudes[:, None] / middles).flatten().argsort(descending=True, stable=True)
        moments = ((weight * wide)[:, None] * table.diff()).flatten()[order].cumsum(0) + moment
        masses = (weight[:, None] * table.square().diff()).flatten()[order].cumsum(0) + mass
        if first > 0:
            moments, masses = torch.cat([moment[None], moments]), torch.cat([mass[None], masses])
        best = (moments.square() / masses).argmax(0, keepdim=True)
        moment, mass = moments.gather(0, best)[0], masses.gather(0, best)[0]  # an index would be waited for
    return (moment / mass).to(magnitudes.dtype)


def improve(magnitudes: Tensor, curvature: Tensor | None, grid: Sequence[float], scale: Tensor, turn: int) -> Tensor:
    """Return a scale that is at least as good as ``scale``, by two rounds of alternation.

    From the scale of the step before, whose weights were nearly the same, that finds the nearest minimum, which need
    not be the best any more. So the first round tries two other starts: one close by, and one of those of ``search``;
    ``turn``, the number of the step, says which. In some twenty steps all had their turn.
    """
    if len(grid) == 1:
        return sweep(magnitudes, curvature, grid)  # a closed form, and as quick
    close = scale * _CLOSE[turn % len(_CLOSE)]
    best = _best_of(magnitudes, curvature, grid, [scale, close, _between(magnitudes, turn % _STARTS)])
    return _round(magnitudes, curvature, grid, best)[0]


def search(magnitudes: Tensor, curvature: Tensor | None, grid: Sequence[float]) -> Tensor:
    """Return a scale within 2 % of the best error, in O(d), from many starts between mean and largest weight.

    It sums and compares only, in an order that is the same on every run and device of a kind.
    """
    best = _best_of(magnitudes, curvature, grid, [_between(magnitudes, place) for place in range(_STARTS)])
    for reach in _REACHES:
        exponents = [2 * place / (_STARTS - 1) - 1 for place in range(_STARTS)]
        best = _best_of(magnitudes, curvature, grid, [best, *(best * reach**exponent for exponent in exponents)])
    return _round(magnitudes, curvature, grid, best)[0]


def nearest(magnitudes: Tensor, grid: Sequence[float], scale: Tensor) -> Tensor:
    """Return float[d]: the value of ``scale * grid`` nearest to each magnitude, the larger one in the middle."""
    return _nearest_of_grid(magnitudes / _divisor(scale), grid) * scale


def _nearest_of_grid(ratios: Tensor, grid: Sequence[float]) -> Tensor:
    if len(grid) == 1:
        return torch.ones_like(ratios)
    if is_linear(grid):
        steps = len(grid) - 1
        return (ratios * steps + 0.5).floor().clamp(max=steps) / steps
    table = torch.tensor(grid, dtype=ratios.dtype, device=ratios.device)
    return table[torch.bucketize(ratios, (table[1:] + table[:-1]) / 2, right=True)]


def with_sign(magnitudes: Tensor, weights: Tensor) -> Tensor:
    """Return ``magnitudes`` with the signs of ``weights``; torch.sign would make a third value of 0."""
    return torch.where(weights < 0, -magnitudes, magnitudes)


def is_linear(grid: Sequence[float]) -> bool:
    """Return whether ``grid`` is 0, 1/k, ..., 1."""
    steps = len(grid) - 1
    return steps > 0 and all(value == place / steps for place, value in enumerate(grid))


def _between(magnitudes: Tensor, place: int) -> Tensor:
    """Return the start number ``place`` of ``_STARTS``, in equal ratios from the mean to the largest weight."""
    share = place / (_STARTS - 1)
    return magnitudes.mean() ** (1 - share) * magnitudes.max() ** share


def _best_of(magnitudes: Tensor, curvature: Tensor | None, grid: Sequence[float], starts: Sequence[Tensor]) -> Tensor:
    """Return what one round makes of the best of ``starts``."""
    best, best_gain = _round(magnitudes, curvature, grid, starts[0])
    for start in starts[1:]:
        scale, gain = _round(magnitudes, curvature, grid, start)
        best = torch.where(gain > best_gain, scale, best)
        best_gain = torch.maximum(gain, best_gain)
    return best


def _round(magnitudes: Tensor, curvature: Tensor | None, grid: Sequence[float], start: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best scale for the values nearest under ``start``, and their C^2 / A: what it takes from the error."""
    scale = torch.where(start > 0, start, magnitudes.max())
    values = _nearest_of_grid(magnitudes / _divisor(scale), grid)
    weighted = values if curvature is None else curvature * values
    moment, mass = _dot(weighted, magnitudes), _dot(weighted, values)
    some = mass > 0
    mass = torch.where(some, mass, torch.ones_like(mass))
    return torch.where(some, moment / mass, scale).to(scale.dtype), moment.square() / mass


def _divisor(scale: Tensor) -> Tensor:
    """Return ``scale``, or 1 where it is 0: all weights are zero then."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Return the scalar product, summed in float64."""
    return (one * other).sum(dtype=torch.float64)
