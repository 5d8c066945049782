"""Quantised weights as a parametrisation of PyTorch: a module's ``weight`` is q, its parameter the full weight."""

from __future__ import annotations

from typing import Any, TypeAlias

from alq_hvd import backends
from alq_hvd.errors import UnsupportedTensor, WeightsError
from alq_hvd.weights.schemes import Scheme

Tensor: TypeAlias = Any
torch = backends.torch()


_Module: Any = torch.nn.Module


class QuantizedWeight(_Module):  # type: ignore[misc]  # torch is imported in one place, as Any
    """Return q = Q(w) for ``module.weight``, and the gradient to w (``parametrizations.weight.original``).

    ``scales``, a buffer, is all that q needs beside w: a ``state_dict`` holds both, and loading it gives back the
    same q. Assigning ``module.weight = w`` sets w and solves for the scales.

    Args:
        scheme: what q may be.
        raw_gradient: w receives the gradient with respect to q, whatever the scheme's surrogate is; the gradient
            through the surrogate goes to ``look``, where there is one (MetaQuant's look-ahead weights).
    """

    def __init__(self, scheme: Scheme, raw_gradient: bool = False) -> None:
        super().__init__()
        self.scheme = scheme
        self.raw_gradient = raw_gradient
        self.look: Tensor | None = None
        self.scales: Tensor | None
        self.register_buffer("scales", None)

    def forward(self, weight: Tensor) -> Tensor:
        """Return q, in the dtype and shape of ``weight``; its value is exact, its gradient that of the surrogate."""
        wide = as_wide(weight)
        quantised = self.scheme.quantise(wide.detach(), self.scales)
        if not torch.is_grad_enabled():
            return quantised.to(weight.dtype)
        through = [wide] if self.raw_gradient else [self.scheme.surrogate(wide)]
        if self.look is not None:
            through.append(self.scheme.surrogate(as_wide(self.look)))
        for surrogate in through:
            quantised = quantised + (surrogate - surrogate.detach())  # adds an exact zero, and a gradient
        return quantised.to(weight.dtype)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Take ``weight`` as w, whose scales are solved for; PyTorch calls this on assignment.

        Raises:
            UnsupportedTensor: for integers, and layouts other than strided.
            WeightsError: for NaN, infinity, or no weights at all.
        """
        require_weights(weight, "this weight")
        with torch.no_grad():
            self.keep(self.scheme.solve(as_wide(weight.detach()), None))
        return weight

    def keep(self, scales: Tensor | None) -> None:
        """Take ``scales`` from now on, in the memory of the ones before."""
        if self.scales is None or scales is None:
            self.scales = scales
        else:
            self.scales.copy_(scales)

    def extra_repr(self) -> str:
        """Return scheme and bits, for the model's print-out."""
        return f"{self.scheme.name}, {self.scheme.bits} bits"


def dequantized_state_dict(model: Any) -> dict[str, Tensor]:
    """Return the ``state_dict`` of a model as it would be with plain weights: q under the names of before.

    The model stays as it is, and may go on training; the result can be loaded by one that was never quantised.
    """
    state: dict[str, Tensor] = dict(model.state_dict())
    for name, module in model.named_modules():
        if torch.nn.utils.parametrize.is_parametrized(module, "weight"):
            own = module.parametrizations.weight
            if isinstance(own[0], QuantizedWeight):
                prefix = f"{name}." if name else ""
                for key in own.state_dict():
                    del state[f"{prefix}parametrizations.weight.{key}"]
                with torch.no_grad():
                    state[f"{prefix}weight"] = module.weight.detach().clone()
    return state


def as_wide(weight: Tensor) -> Tensor:
    """Return ``weight`` in float32, or float64 where it is that."""
    return weight if weight.dtype in (torch.float32, torch.float64) else weight.float()


def require_weights(weight: Tensor, name: str) -> None:
    """Raise an error that names ``name`` unless ``weight`` can be quantised: strided, floats, finite, at least one.

    Raises:
        UnsupportedTensor: for integers, and layouts other than strided.
        WeightsError: for NaN, infinity, or no weights at all.
    """
    if weight.layout != torch.strided:
        raise UnsupportedTensor(f"{name}: expected a dense weight, got layout {weight.layout}: call to_dense() first")
    if not weight.is_floating_point():
        raise UnsupportedTensor(
            f"{name}: expected floats, got {weight.dtype}: quantise the weights before they are cast"
        )
    if weight.numel() == 0:
        raise WeightsError(f"{name}: expected at least one weight, got shape {tuple(weight.shape)}")
    bad = int((~torch.isfinite(weight.detach())).sum())
    if bad:
        raise WeightsError(
            f"{name}: {bad} of {weight.numel()} weights are NaN or infinite: go back to a checkpoint without"
        )
