"""The flat buffers in which the gradients of a fusion group meet, on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from alq_hvd import backends
from alq_hvd.codec.base import FloatArray
from alq_hvd.errors import CallOrderError, ConfigurationError, UnsupportedTensor
from alq_hvd.plan import FusionPlan, Slot

Sampler = Callable[[], Iterable[Mapping[str, Any]]]
"""Return gradients of extra minibatches, each by the names of ``named_parameters``."""


class FusionBuffers:
    """Collect the gradients of one step in float32, group by group.

    Args:
        plan: where each gradient goes; agreed by all ranks.
    """

    def __init__(self, plan: FusionPlan) -> None:
        torch = backends.torch()
        self.plan = plan
        self._buffers = [torch.empty(size, dtype=torch.float32) for size in plan.group_elements]
        self._filled: list[set[int]] = [set() for _ in plan.group_elements]

    def fill(self, slot: Slot, gradient: Any) -> FloatArray | None:
        """Copy ``gradient`` into its place; return the group, float32[elements], when that made it complete.

        The returned array is overwritten in the next step.

        Raises:
            CallOrderError: the place is taken.
        """
        filled = self._filled[slot.group]
        if slot.index in filled:
            raise CallOrderError(
                f"gradient {slot.name} was handed over twice in one step. Give every optimizer its own "
                "alq_hvd.Compression, and call optimizer.step() or synchronize() once a step"
            )
        buffer = self._buffers[slot.group]
        buffer[slot.start : slot.stop].copy_(gradient.detach().reshape(-1))
        filled.add(slot.index)
        if len(filled) < self.plan.group_slots[slot.group]:
            return None
        group: FloatArray = buffer.numpy()
        return group

    def missing(self) -> list[Slot]:
        """Return the places that are still empty."""
        return [slot for slot in self.plan.slots if slot.index not in self._filled[slot.group]]

    def clear(self) -> None:
        """Empty every place for the next step."""
        for filled in self._filled:
            filled.clear()


def sampled_groups(buffers: FusionBuffers, samples: Iterable[Mapping[str, Any]]) -> Iterator[FloatArray]:
    """Lay the gradients of extra minibatches out in fusion groups, as those of a step are, and yield each group.

    Args:
        buffers: are overwritten; the step's own gradients must be on their way.
        samples: gradients by name, one mapping a minibatch.

    Raises:
        ConfigurationError: a sample lacks a gradient.
    """
    for gradients in samples:
        buffers.clear()
        for slot in buffers.plan.slots:
            if slot.name not in gradients:
                raise ConfigurationError(
                    f"sample_gradients: expected a gradient of {slot.name} in every sample, got {len(gradients)} others"
                )
            group = buffers.fill(slot, gradients[slot.name])
            if group is not None:
                yield group


def is_dense_float(tensor: Any) -> bool:
    """Return whether ``tensor`` could be a gradient to compress: dense, floating, outside autograd."""
    strided = tensor.layout == backends.torch().strided
    return bool(strided and tensor.is_floating_point() and not tensor.requires_grad)


def require_convertible(tensor: Any) -> None:
    """Raise ``UnsupportedTensor`` unless float32 can stand for the tensor's dtype."""
    torch = backends.torch()
    supported = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if tensor.dtype not in supported:
        names = ", ".join(str(dtype) for dtype in supported)
        raise UnsupportedTensor(
            f"expected a gradient of dtype {names}, got {tensor.dtype}: exclude it from named_parameters"
        )
