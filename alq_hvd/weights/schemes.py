"""The schemes of quantised weights, and the one registry of their names.

A scheme turns weights into *scales*, a few numbers a tensor that a checkpoint keeps, and weights and scales into
quantised weights. The second is cheap, done in every forward pass, and the same on every rank that has the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from alq_hvd import backends
from alq_hvd.errors import ConfigurationError
from alq_hvd.weights import solving
from alq_hvd.weights.baselines import DoReFa, MeanSign
from alq_hvd.weights.lq_net import LqNet

Tensor: TypeAlias = Any
torch = backends.torch()


class Scheme(Protocol):
    """Be one way of quantising a tensor of weights, of any shape, in float32 or float64."""

    @property
    def name(self) -> str:
        """Return its name in ``NAMES``."""
        ...

    @property
    def bits(self) -> int:
        """Return the width of a code of a quantised weight."""
        ...

    @property
    def loss_aware(self) -> bool:
        """Return whether ``solve`` looks at the curvature."""
        ...

    def solve(self, weights: Tensor, curvature: Tensor | None) -> Tensor | None:
        """Return the best scales, or ``None`` for a scheme that has none."""
        ...

    def improve(self, weights: Tensor, curvature: Tensor | None, scales: Tensor | None, turn: int) -> Tensor | None:
        """Return scales at least as good as those of the step before, in O(d); ``turn`` counts the steps."""
        ...

    def quantise(self, weights: Tensor, scales: Tensor | None) -> Tensor:
        """Return the quantised weights, in the shape of ``weights``."""
        ...

    def surrogate(self, weights: Tensor) -> Tensor:
        """Return the differentiable tensor whose gradient stands for that of ``quantise`` (straight-through)."""
        ...

    def values(self, weights: Tensor, scales: Tensor | None) -> Tensor:
        """Return every value a quantised weight may have, increasing: float[n], or float[channels, n]."""
        ...


@dataclass(frozen=True, slots=True)
class Grid:
    """Have values a * {+-g} for one scale a and a grid of magnitudes g: ``lab``, ``laq`` and ``laq_log``.

    The gradient with respect to the quantised weights is applied to the weights unchanged.
    """

    name: str
    bits: int
    magnitudes: tuple[float, ...]
    loss_aware: bool = True

    def solve(self, weights: Tensor, curvature: Tensor | None) -> Tensor:
        """Return the best scale: float[1]."""
        return solving.solve(weights.abs().flatten(), _flat(curvature), self.magnitudes)[None]

    def improve(self, weights: Tensor, curvature: Tensor | None, scales: Tensor | None, turn: int) -> Tensor:
        """Return a scale after two more rounds of alternation: float[1]."""
        assert scales is not None
        return solving.improve(weights.abs().flatten(), _flat(curvature), self.magnitudes, scales[0], turn)[None]

    def quantise(self, weights: Tensor, scales: Tensor | None) -> Tensor:
        """Return the nearest of ``values`` to each weight; 0 goes to a positive one where there is no zero."""
        assert scales is not None
        return solving.with_sign(solving.nearest(weights.abs(), self.magnitudes, scales[0]), weights)

    def surrogate(self, weights: Tensor) -> Tensor:
        """Return the weights themselves."""
        return weights

    def values(self, weights: Tensor, scales: Tensor | None) -> Tensor:
        """Return float[2 len(magnitudes)], or one less with a zero."""
        assert scales is not None
        magnitudes = torch.tensor(self.magnitudes, dtype=scales.dtype, device=scales.device) * scales[0]
        below = magnitudes[1:] if self.magnitudes[0] == 0 else magnitudes
        return torch.cat([-below.flip(0), magnitudes])


@dataclass(frozen=True, slots=True)
class TwoScales:
    """Have values {-a2, 0, a1}, each scale solved for on its own side: ``lat2``. It is the value set of TTQ."""

    name: str = "lat2"
    bits: int = 2
    loss_aware: bool = True

    def solve(self, weights: Tensor, curvature: Tensor | None) -> Tensor:
        """Return the best a1 and a2: float[2]."""
        return torch.stack([solving.solve(side, _flat(curvature), _TERNARY) for side in _sides(weights)])

    def improve(self, weights: Tensor, curvature: Tensor | None, scales: Tensor | None, turn: int) -> Tensor:
        """Return both scales after two more rounds of alternation: float[2]."""
        assert scales is not None
        sides = zip(_sides(weights), scales, strict=True)
        return torch.stack([solving.improve(side, _flat(curvature), _TERNARY, scale, turn) for side, scale in sides])

    def quantise(self, weights: Tensor, scales: Tensor | None) -> Tensor:
        """Return the nearest of the three values to each weight."""
        assert scales is not None
        up = solving.nearest(weights.clamp(min=0), _TERNARY, scales[0])
        return up - solving.nearest((-weights).clamp(min=0), _TERNARY, scales[1])

    def surrogate(self, weights: Tensor) -> Tensor:
        """Return the weights themselves."""
        return weights

    def values(self, weights: Tensor, scales: Tensor | None) -> Tensor:
        """Return -a2, 0, a1."""
        assert scales is not None
        return torch.stack([-scales[1], torch.zeros_like(scales[0]), scales[0]])


@dataclass(frozen=True, slots=True)
class _Entry:
    description: str
    make: Callable[[int], Scheme]
    bits: tuple[int, int]
    default: int


def _linear(bits: int) -> Scheme:
    steps = 2 ** (bits - 1) - 1
    return Grid("laq", bits, tuple(place / steps for place in range(steps + 1)))


def _powers(bits: int) -> Scheme:
    count = 2 ** (bits - 1) - 1
    return Grid("laq_log", bits, (0.0, *(2.0**-exponent for exponent in reversed(range(count)))))


_REGISTRY: dict[str, _Entry] = {
    "lab": _Entry("loss-aware binary: a, -a", lambda bits: Grid("lab", bits, (1.0,)), (1, 1), 1),
    "laq": _Entry("loss-aware, equally spaced: a * {0, 1/k, ..., 1}, both signs", _linear, (2, 8), 3),
    "lat2": _Entry("loss-aware ternary with a scale a side, the value set of TTQ", lambda _: TwoScales(), (2, 2), 2),
    "laq_log": _Entry("loss-aware, powers of 1/2: a * {0, ..., 1/4, 1/2, 1}, both signs", _powers, (2, 5), 3),
    "bwn": _Entry("mean |w| times the sign", lambda _: MeanSign(), (1, 1), 1),
    "dorefa": _Entry("equally spaced from -1 to 1 after tanh, no scale", DoReFa, (1, 8), 1),
    "lq_net": _Entry("LQ-Net: sums of learned values a channel, alternating least squares", LqNet, (1, 4), 2),
}
NAMES: tuple[str, ...] = tuple(_REGISTRY)
_TERNARY = (0.0, 1.0)


def scheme(name: str, bits: int | None = None) -> Scheme:
    """Return the scheme ``name`` at ``bits``; ``None`` stands for its usual width.

    Raises:
        ConfigurationError: for an unknown name, or a width at which it is not defined; the message lists what is valid.
    """
    if name not in _REGISTRY:
        raise ConfigurationError(f"scheme: expected one of {', '.join(NAMES)}, got {name!r}")
    entry = _REGISTRY[name]
    low, high = entry.bits
    chosen = entry.default if bits is None else bits
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not low <= chosen <= high:
        defined = f"{low} bits only" if low == high else f"{low} to {high} bits"
        if low == high == 1:
            defined = "1 bit only"
        raise ConfigurationError(f"bits: {name} is defined at {defined}, got {bits!r}")
    return entry.make(chosen)


def from_text(text: str) -> Scheme:
    """Return the scheme that a command line names, with bits behind it where they are not the usual ones (``laq3``).

    Raises:
        ConfigurationError: for an unknown name, or a width at which it is not defined.
    """
    if text not in _REGISTRY and text[-1:].isdigit():
        return scheme(text[:-1], int(text[-1]))
    return scheme(text)


def bits_of(name: str) -> tuple[int, int]:
    """Return the smallest and the largest width at which the scheme ``name`` is defined."""
    return _REGISTRY[name].bits


def description(name: str) -> str:
    """Return one line about the scheme ``name``, for tables."""
    return _REGISTRY[name].description


def _flat(curvature: Tensor | None) -> Tensor | None:
    return None if curvature is None else curvature.flatten()


def _sides(weights: Tensor) -> tuple[Tensor, Tensor]:
    flat = weights.flatten()
    return flat.clamp(min=0), (-flat).clamp(min=0)
