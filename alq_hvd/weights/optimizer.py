"""Quantised weights without a change of the model: an optimizer that hands out q and keeps w to itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

from alq_hvd import backends
from alq_hvd.communicator.base import Communicator
from alq_hvd.errors import ConfigurationError, StateError
from alq_hvd.weights.parametrization import as_wide, require_weights
from alq_hvd.weights.schemes import Scheme, scheme
from alq_hvd.weights.upkeep import Upkeep, is_horovods

Tensor: TypeAlias = Any
torch = backends.torch()
_Optimizer: Any = torch.optim.Optimizer


class QuantizedOptimizer(_Optimizer):  # type: ignore[misc]  # torch is imported in one place, as Any
    """Quantise the parameters of the groups that ask for it, in the manner of torchao's ``QuantOptimizer``.

    Between two steps a parameter *is* its quantised weights, so the model computes with them, ``state_dict`` of the
    model can be shipped as it is, and ``.grad`` is the gradient at them. ``step()`` puts the full weights back, lets
    the base optimizer change them, solves for the scales and quantises again. The numbers are those of
    ``quantize_weights`` with straight-through gradients; MetaQuant is for ``quantize_weights``.

        groups = [{"params": inner, "quant_bits": 3}, {"params": others}]
        optimizer = QuantizedOptimizer(hvd.DistributedOptimizer(torch.optim.Adam(groups), ...))

    All ranks must agree on: the groups, every option, and the averaged gradients of every step.

    Args:
        base: an optimizer of PyTorch or ``hvd.DistributedOptimizer``. Groups with ``quant_bits`` are quantised, by
            their own ``quant_scheme`` where they have one.
        scheme: for groups without ``quant_scheme``; see ``quantize_weights`` for this and the other options.

    Raises:
        ConfigurationError: when no group has ``quant_bits``, or has one at which the scheme is not defined.
        UnsupportedTensor, WeightsError: for weights that cannot be quantised.
    """

    def __init__(
        self,
        base: Any,
        scheme: str = "laq",
        *,
        communicator: Communicator | None = None,
        solve_every: int = 100,
        check_every: int = 100,
        clamp: bool | None = None,
    ) -> None:
        # Not Optimizer.__init__: groups, state and hooks are the base optimizer's.
        self.base = base
        self._tensors = _find(base, scheme)
        self._upkeep = Upkeep(self._tensors, communicator, solve_every, check_every, clamp)
        self._upkeep.follow(base)
        self._averaged = False
        self._hand_out()

    def __getattr__(self, name: str) -> Any:
        if name == "base":  # not there yet, while a copy is made
            raise AttributeError(name)
        return getattr(self.base, name)

    def __repr__(self) -> str:
        return f"QuantizedOptimizer of {len(self._tensors)} tensors, base {self.base!r}"

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Return the groups of the base optimizer."""
        groups: list[dict[str, Any]] = self.base.param_groups
        return groups

    @property
    def state(self) -> Any:
        """Return the state of the base optimizer."""
        return self.base.state

    def zero_grad(self, *arguments: Any, **options: Any) -> None:
        """Do what the base optimizer does."""
        self.base.zero_grad(*arguments, **options)

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Raise ``ConfigurationError``: groups belong to the base optimizer, before it is wrapped."""
        raise ConfigurationError("add_param_group: expected all groups when the optimizer is wrapped: wrap it again")

    def synchronize(self) -> None:
        """Wait for Horovod's averages, as ``hvd.DistributedOptimizer`` does; then call ``step`` as usual."""
        self.base.synchronize()
        self._averaged = True

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Let the base optimizer make its step with the full weights; return the loss of ``closure``.

        Raises:
            WeightsError: when a weight or the curvature is NaN or infinite.
            WeightsMismatch: when ranks have come apart.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()  # at the quantised weights
        horovods = is_horovods(self.base)
        if horovods and not self._averaged:
            self.base.synchronize()
        self._averaged = False
        for tensor in self._tensors:
            tensor.put_back()
        with self.base.skip_synchronize() if horovods else nullcontext():
            self.base.step()
        self._upkeep.after_step()
        self._hand_out()
        return loss

    def restore_full_weights(self) -> None:
        """Leave the parameters at their full weights until the next step: for a look at them, or to save them plain."""
        for tensor in self._tensors:
            tensor.show_full()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the base optimizer, the full weights and the scales."""
        tensors = {
            tensor.name: {"full": tensor.full, "scales": tensor.scales, "bits": tensor.scheme.bits}
            for tensor in self._tensors
        }
        return {"base": self.base.state_dict(), "upkeep": self._upkeep.state_dict(), "tensors": tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; the parameters become its quantised weights.

        Raises:
            StateError: when it is of other groups.
        """
        own = {tensor.name: tensor.scheme.bits for tensor in self._tensors}
        got = {name: saved["bits"] for name, saved in state["tensors"].items()}
        if own != got:
            raise StateError(f"expected the state of {own} (tensors and bits), got {got}: use the same groups")
        self.base.load_state_dict(state["base"])
        self._upkeep.load_state_dict(state["upkeep"])
        for tensor in self._tensors:
            saved = state["tensors"][tensor.name]
            tensor.full.copy_(saved["full"])
            tensor.show_full()
            tensor.scales = None if saved["scales"] is None else saved["scales"].to(as_wide(tensor.full)).clone()
        self._hand_out()

    def _hand_out(self) -> None:
        for tensor in self._tensors:
            tensor.hand_out()


@dataclass(slots=True)
class _Parameter:
    """Hold one quantised parameter.

    Attributes:
        weight: the parameter: q between steps, w during one.
        full: w between steps.
    """

    name: str
    scheme: Scheme
    weight: Tensor
    full: Tensor
    scales: Tensor | None = None

    def keep(self, scales: Tensor | None) -> None:
        self.scales = scales

    def put_back(self) -> None:
        """Make the parameter w again, and its gradient that with respect to w."""
        self.show_full()
        gradient = self.weight.grad
        if gradient is not None:
            with torch.enable_grad():
                full = as_wide(self.full).detach().requires_grad_()
                surrogate = self.scheme.surrogate(full)
            if surrogate is not full:
                gradient.copy_(torch.autograd.grad(surrogate, full, gradient.to(full.dtype))[0])

    def show_full(self) -> None:
        with torch.no_grad():
            self.weight.copy_(self.full)

    def hand_out(self) -> None:
        """Keep w, which the parameter holds, and make the parameter q."""
        with torch.no_grad():
            self.full.copy_(self.weight)
            self.weight.copy_(self.scheme.quantise(as_wide(self.full), self.scales))


def _find(base: Any, default: str) -> list[_Parameter]:
    found = []
    for place, group in enumerate(base.param_groups):
        if group.get("quant_bits") is None:
            continue
        made = scheme(group.get("quant_scheme", default), group["quant_bits"])
        for number, weight in enumerate(group["params"]):
            name = f"group {place}, parameter {number}"
            require_weights(weight, name)
            if weight.dim() < 2:
                raise ConfigurationError(
                    f"{name}: expected a weight of two dimensions or more in a group with quant_bits, got shape "
                    f"{tuple(weight.shape)}: biases and norms go into a group without"
                )
            full = weight.detach().clone()
            found.append(_Parameter(name, made, weight, full, made.solve(as_wide(full), None)))
    if not found:
        raise ConfigurationError(
            "param_groups: expected at least one with quant_bits, got none: "
            'for example [{"params": weights, "quant_bits": 3}, {"params": others}]'
        )
    return found
