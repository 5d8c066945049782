"""The curvature D of the loss-aware problem: the root of the optimizer's second moment, over its largest entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from alq_hvd import backends
from alq_hvd.errors import UnsupportedTensor

Tensor: TypeAlias = Any
torch = backends.torch()

SECOND_MOMENTS = ("exp_avg_sq", "square_avg", "sum")
"""How optimizers of PyTorch call it: Adam, AdamW, NAdam, RAdam; RMSprop, Adadelta; Adagrad."""
_KEPT = 0.999
_EPSILON = 1e-8


def curvature(second_moment: Tensor) -> Tensor:
    """Return sqrt(v) / max sqrt(v) + 1e-8: only the shape of D matters, and small v must not vanish beside epsilon.

    So bias correction, which multiplies all of v by one number, changes nothing.
    """
    root = second_moment.sqrt()
    largest = root.max()
    return root / torch.where(largest > 0, largest, torch.ones_like(largest)) + _EPSILON


def has_second_moment(optimizer: Any) -> bool:
    """Return whether the states of ``optimizer`` have, or will have, a second moment, as its type promises."""
    kinds = ("Adadelta", "Adagrad", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop")
    return isinstance(optimizer, tuple(getattr(torch.optim, kind) for kind in kinds)) or any(
        name in state for state in optimizer.state.values() for name in SECOND_MOMENTS
    )


def second_moment(state: Mapping[str, Any], like: Tensor) -> Tensor | None:
    """Return v of one parameter from the optimizer's ``state`` of it, ``None`` where there is none yet."""
    found = (state[name] for name in SECOND_MOMENTS if name in state)
    return next((value for value in found if getattr(value, "shape", None) == like.shape), None)


class OwnSecondMoments:
    """Average squared gradients for optimizers that do not: v = 0.999 v + 0.001 g^2, four bytes a weight."""

    def __init__(self) -> None:
        self.moments: dict[str, Tensor] = {}

    def update(self, name: str, gradient: Tensor | None) -> Tensor | None:
        """Add a gradient of the tensor ``name``, and return its v; ``None`` before the first gradient.

        Raises:
            UnsupportedTensor: for a sparse gradient.
        """
        if gradient is not None:
            if gradient.layout != torch.strided:
                raise UnsupportedTensor(f"{name}: expected a dense gradient, got layout {gradient.layout}")
            gradient = gradient.detach()
            wide = gradient if gradient.dtype == torch.float64 else gradient.float()
            if name not in self.moments:
                self.moments[name] = torch.zeros_like(wide)
            self.moments[name].mul_(_KEPT).addcmul_(wide, wide, value=1 - _KEPT)
        return self.moments.get(name)
