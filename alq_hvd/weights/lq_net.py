"""LQ-Net, a baseline: each output channel has levels of its own, sums of a few learned values with signs.

References:
    Zhang, Yang, Ye, Hua, "LQ-Nets: Learned Quantization for Highly Accurate and Compact Deep Neural Networks", ECCV
    2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from alq_hvd import backends

Tensor: TypeAlias = Any
torch = backends.torch()

_ROUNDS = 20
_KEPT = 0.9
"""How much of the values of the step before stays in the moving average."""


@dataclass(frozen=True, slots=True)
class LqNet:
    """Have values v . e with e in {-1, +1}^bits, where v is learned for each output channel: ``lq_net``.

    1. Codes: the nearest of the 2^bits sums. 2. v by least squares for these codes. 3. Again. Every weight counts the
    same; in training one round a step goes into a moving average of v. Gradients are applied to the weights unchanged.
    """

    bits: int
    name: str = "lq_net"
    loss_aware: bool = False

    def solve(self, weights: Tensor, curvature: Tensor | None) -> Tensor:
        """Return float[channels, bits], the best v of twenty rounds from halves of the mean magnitude."""
        rows = weights.flatten(1).abs()
        start = rows.mean(1, keepdim=True) * 2.0 ** -torch.arange(self.bits, dtype=rows.dtype, device=rows.device)
        best, best_error = start, self._error(weights, start)
        values = start
        for _ in range(_ROUNDS):
            values = self._least_squares(weights, values)
            error = self._error(weights, values)
            best = torch.where((error < best_error)[:, None], values, best)
            best_error = torch.minimum(error, best_error)
        return best

    def improve(self, weights: Tensor, curvature: Tensor | None, scales: Tensor | None, turn: int) -> Tensor:
        """Return v after one more round, averaged with the values of the step before."""
        assert scales is not None
        return _KEPT * scales + (1 - _KEPT) * self._least_squares(weights, scales)

    def quantise(self, weights: Tensor, scales: Tensor | None) -> Tensor:
        """Return the nearest sum of its channel for each weight."""
        assert scales is not None
        _, values = self._codes(weights, scales)
        return values.view_as(weights)

    def surrogate(self, weights: Tensor) -> Tensor:
        """Return the weights themselves."""
        return weights

    def values(self, weights: Tensor, scales: Tensor | None) -> Tensor:
        """Return float[channels, 2^bits], increasing along each row."""
        assert scales is not None
        return (scales @ self._signs(scales).T).sort(dim=1).values

    def _signs(self, like: Tensor) -> Tensor:
        """Return float[2^bits, bits]: every e."""
        codes = torch.arange(2**self.bits, device=like.device)[:, None]
        places = torch.arange(self.bits, device=like.device)
        return (2 * ((codes >> places) & 1) - 1).to(like.dtype)

    def _codes(self, weights: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Return e of each weight, float[channels, n, bits], and the values v . e, float[channels, n]."""
        signs = self._signs(scales)
        levels, order = (scales @ signs.T).sort(dim=1)
        middles = ((levels[:, 1:] + levels[:, :-1]) / 2).contiguous()
        places = torch.searchsorted(middles, weights.flatten(1).contiguous(), right=True)
        return signs[order.gather(1, places)], levels.gather(1, places)

    def _least_squares(self, weights: Tensor, scales: Tensor) -> Tensor:
        codes, _ = self._codes(weights, scales)
        normal = codes.transpose(1, 2) @ codes
        right = (codes * weights.flatten(1)[:, :, None]).sum(1)
        # Codes of few weights may be linearly dependent: a little of the old values decides then.
        ridge = 1e-6 * weights.flatten(1).shape[1]
        normal = normal + ridge * torch.eye(self.bits, dtype=normal.dtype, device=normal.device)
        return torch.linalg.solve(normal, right + ridge * scales)

    def _error(self, weights: Tensor, scales: Tensor) -> Tensor:
        _, values = self._codes(weights, scales)
        return (weights.flatten(1) - values).square().sum(1)
