"""Schemes that look at the weights alone, and have no scale to be solved for: BWN and DoReFa."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from alq_hvd import backends
from alq_hvd.weights.solving import with_sign

Tensor: TypeAlias = Any
torch = backends.torch()


@dataclass(frozen=True, slots=True)
class MeanSign:
    """Have values mean|w| * {-1, +1}: ``bwn``.

    The gradient is multiplied by the mean, which counts as a constant, and stops where |w| > 1.

    References:
        Rastegari et al., "XNOR-Net", ECCV 2016, per filter; per tensor as in Chen, Wang, Pan, "MetaQuant", NeurIPS
        2019.
    """

    name: str = "bwn"
    bits: int = 1
    loss_aware: bool = False

    def solve(self, weights: Tensor, curvature: Tensor | None) -> None:
        """Return nothing: the mean is taken in ``quantise``."""

    def improve(self, weights: Tensor, curvature: Tensor | None, scales: Tensor | None, turn: int) -> None:
        """Return nothing: the mean is taken in ``quantise``."""

    def quantise(self, weights: Tensor, scales: Tensor | None) -> Tensor:
        """Return mean|w| with each weight's sign, that of 0 being positive."""
        return with_sign(weights.abs().mean().expand_as(weights), weights)

    def surrogate(self, weights: Tensor) -> Tensor:
        """Return mean|w| * w where |w| <= 1, else 0."""
        return weights.detach().abs().mean() * torch.where(weights.abs() <= 1, weights, torch.zeros_like(weights))

    def values(self, weights: Tensor, scales: Tensor | None) -> Tensor:
        """Return -mean|w|, mean|w|."""
        mean = weights.abs().mean()
        return torch.stack([-mean, mean])

    def latent(self, weights: Tensor) -> Tensor:
        """Return w~, what is rounded: the weights."""
        return weights

    def calibration(self, weights: Tensor) -> Tensor:
        """Return d w~ / d w: 1."""
        return torch.ones_like(weights)


@dataclass(frozen=True, slots=True)
class DoReFa:
    """Have 2^bits equally spaced values from -1 to 1, and no scale: ``dorefa``. A norm should follow the layer.

    w~ = tanh(w) / (2 max|tanh w|) + 1/2, q = 2 round((2^k - 1) w~) / (2^k - 1) - 1; the gradient goes through the
    rounding unchanged, and the maximum counts as a constant. There is no zero: a weight of 0 goes up.

    References:
        Zhou et al., "DoReFa-Net", 2016; at one bit without its mean, as in Chen, Wang, Pan, "MetaQuant", NeurIPS 2019.
    """

    bits: int
    name: str = "dorefa"
    loss_aware: bool = False

    def solve(self, weights: Tensor, curvature: Tensor | None) -> None:
        """Return nothing: there is no scale."""

    def improve(self, weights: Tensor, curvature: Tensor | None, scales: Tensor | None, turn: int) -> None:
        """Return nothing: there is no scale."""

    def quantise(self, weights: Tensor, scales: Tensor | None) -> Tensor:
        """Return the rounded weights."""
        steps = 2**self.bits - 1
        return 2 * (steps * self.latent(weights) + 0.5).floor() / steps - 1

    def surrogate(self, weights: Tensor) -> Tensor:
        """Return 2 w~ - 1."""
        return weights.tanh() / _largest_tanh(weights)

    def values(self, weights: Tensor, scales: Tensor | None) -> Tensor:
        """Return the grid: float[2^bits]."""
        return torch.linspace(-1, 1, 2**self.bits, dtype=weights.dtype, device=weights.device)

    def latent(self, weights: Tensor) -> Tensor:
        """Return w~, what is rounded."""
        return weights.tanh() / (2 * _largest_tanh(weights)) + 0.5

    def calibration(self, weights: Tensor) -> Tensor:
        """Return (1 - tanh^2 w) / max|tanh w|: d w~ / d w as MetaQuant defines it, without the factor 1/2."""
        return (1 - weights.tanh().square()) / _largest_tanh(weights)


def _largest_tanh(weights: Tensor) -> Tensor:
    """Return max|tanh w| without a gradient, 1 for zero weights."""
    largest = weights.detach().tanh().abs().max()
    return torch.where(largest > 0, largest, torch.ones_like(largest))
