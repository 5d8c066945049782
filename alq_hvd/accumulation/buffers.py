"""Add up the gradients of micro-batches in a type that bears it, whatever type the gradients have."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from alq_hvd import backends
from alq_hvd.accumulation.plan import AccumulatorPlan, plan_accumulator
from alq_hvd.accumulation.types import AUTO, TYPES, require_type
from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.config import require_int

_logger = logging.getLogger(__name__)


class GradientAccumulator:
    """Keep sums over backward passes in buffers of their own, where the parameters' type would swamp them.

    torch adds the gradient of every pass to ``parameter.grad``, in the parameter's type: 4096 equal gradients add up
    to 256 of them in bfloat16. This takes each pass's gradient as it comes, adds it in a wider type, and gives the sum
    back with the last pass, before any hook of Horovod's sees it:

        accumulation.GradientAccumulator(model.parameters(), passes=128)
        optimizer = hvd.DistributedOptimizer(optimizer, ..., backward_passes_per_step=128)

    Between the passes ``parameter.grad`` is zero. Do not clear it there; after the last pass do as you please.
    A pass in which a parameter takes no part counts for the others only, so every parameter should take part in each.

    Args:
        parameters: whose gradients to add up.
        passes: backward passes of a step, the terms of each sum.
        accumulator: ``"auto"`` plans with all terms alike, as gradients of one parameter tend to be: the parameter's
            own type where it bears so many, which needs no buffer, else float32. Or ``"fp32"``, ``"fp16"``,
            ``"bf16"``: that one, with a warning where the plan speaks against it.

    Attributes:
        plans: the plan for each type of parameter, by torch's name of the type.

    Raises:
        ConfigurationError: fewer than one pass, a type that is none, no parameter that needs a gradient, or sparse ones
            (at their first backward pass).
    """

    def __init__(self, parameters: Iterable[Any], passes: int, accumulator: str = AUTO) -> None:
        require_int("passes", passes, 1, 2**27)
        require_type("accumulator", accumulator)
        self._passes = passes
        self.plans: dict[str, AccumulatorPlan] = {}
        self._buffers: dict[Any, Any] = {}
        self._seen: dict[Any, int] = {}
        self._hooks = []
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        if not trained:
            raise ConfigurationError("parameters: expected some that need a gradient, got none")
        for parameter in trained:
            dtype = self._planned(parameter, accumulator)
            if dtype is not None and dtype != parameter.dtype:
                self._buffers[parameter] = backends.torch().zeros_like(parameter, dtype=dtype, requires_grad=False)
                self._seen[parameter] = 0
                self._hooks.append(parameter.register_post_accumulate_grad_hook(self._add))

    def remove(self) -> None:
        """Leave the gradients to torch again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _planned(self, parameter: Any, accumulator: str) -> Any:
        """Return torch's type of the sum; ``None`` for a parameter of a type that is not ours to plan (float64)."""
        own = next((kind for kind in TYPES.values() if kind.torch == parameter.dtype), None)
        if own is None:
            return None
        if own.torch_name not in self.plans:
            plan = plan_accumulator(self._passes, accumulator=accumulator, allowed=(own.name, "fp32"))
            self.plans[own.torch_name] = plan
            if plan.problem:
                _logger.warning("gradients of %d passes are added up in %s: %s", self._passes, plan.dtype, plan.problem)
        return TYPES[self.plans[own.torch_name].dtype].torch

    def _add(self, parameter: Any) -> None:
        gradient, buffer = parameter.grad, self._buffers[parameter]
        if gradient.is_sparse:
            raise ConfigurationError("parameters: expected dense gradients, got a sparse one: leave its parameter out")
        with backends.torch().no_grad():
            buffer += gradient.to(buffer.dtype)
            self._seen[parameter] += 1
            if self._seen[parameter] < self._passes:
                gradient.zero_()
                return
            gradient.copy_(buffer)
            buffer.zero_()
        self._seen[parameter] = 0
