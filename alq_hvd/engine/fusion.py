"""The fusion groups of a layout: gradients go in one by one, and a complete group comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from alq_hvd import backends
from alq_hvd.codec.base import Codec
from alq_hvd.codec.choice import Codecs
from alq_hvd.engine.groups import DeviceGroup, FusionGroup, HostGroup
from alq_hvd.engine.layout import FusionLayout, Slot
from alq_hvd.errors import CallOrderError, ConfigurationError, UnsupportedTensor

Sampler = Callable[[], Iterable[Mapping[str, Any]]]
"""Return gradients of extra minibatches, each by the names of ``named_parameters``."""
CONVERTIBLE = ("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64")
"""Dtypes for which float32 can stand."""


class FusionGroups:
    """Collect the gradients of one step, group by group.

    Args:
        layout: where each gradient goes; agreed by all ranks.
        codecs: give each group the codec of the place where its gradients live.
        overwrites: gradients are overwritten with their sums; else they stay as they are, and sums are new tensors.
    """

    def __init__(self, layout: FusionLayout, codecs: Codecs, *, overwrites: bool = True) -> None:
        self.layout = layout
        self._groups: list[FusionGroup] = [
            HostGroup(codecs.host, elements, overwrites) if place is None else DeviceGroup(codecs.on(place), overwrites)
            for elements, place in zip(layout.group_elements, layout.group_places, strict=True)
        ]
        self._filled: list[set[int]] = [set() for _ in layout.group_elements]

    @property
    def main_codec(self) -> Codec:
        """Return the codec of the largest group."""
        sizes = self.layout.group_elements
        return self._groups[sizes.index(max(sizes))].codec

    def fill(self, slot: Slot, gradient: Any) -> FusionGroup | None:
        """Give ``gradient`` to its group; return the group when that made it complete.

        Args:
            slot: of the gradient.
            gradient: a tensor, or ``None`` for one that never came, which counts as zeros.

        Raises:
            CallOrderError: the place is taken.
        """
        filled, group = self._filled[slot.group], self._groups[slot.group]
        if slot.index in filled:
            raise given_twice(slot.name)
        if gradient is None:
            group.put_zeros(slot)
        else:
            group.put(slot, gradient)
        filled.add(slot.index)
        return group if len(filled) == self.layout.group_slots[slot.group] else None

    def take(self, slot: Slot) -> Any:
        """Return the sum for ``slot``, once its group's sum has been decoded."""
        return self._groups[slot.group].take(slot)

    def missing(self) -> list[Slot]:
        """Return the places that are still empty."""
        return [slot for slot in self.layout.slots if slot.index not in self._filled[slot.group]]

    def clear(self) -> None:
        """Empty every place for the next step."""
        for filled, group in zip(self._filled, self._groups, strict=True):
            filled.clear()
            group.clear()


def sampled_groups(groups: FusionGroups, samples: Iterable[Mapping[str, Any]]) -> Iterator[FusionGroup]:
    """Lay the gradients of extra minibatches out in fusion groups, as those of a step are, and yield each group.

    Args:
        groups: are overwritten; the step's own gradients must have been given back.
        samples: gradients by name, one mapping a minibatch.

    Raises:
        ConfigurationError: a sample lacks a gradient.
    """
    for gradients in samples:
        groups.clear()
        for slot in groups.layout.slots:
            if slot.name not in gradients:
                raise ConfigurationError(
                    f"sample_gradients: expected a gradient of {slot.name} in every sample, got {len(gradients)} others"
                )
            group = groups.fill(slot, gradients[slot.name])
            if group is not None:
                yield group


def require_all(slots: list[Slot], expected: int, rank: int, step: int) -> None:
    """Raise ``CallOrderError`` if ``slots``, of ``expected``, got no gradient before the first result is fetched."""
    if slots:
        shown = ", ".join(slot.name for slot in slots[:5]) + (" ..." if len(slots) > 5 else "")
        raise CallOrderError(
            f"rank {rank}, step {step}: expected {expected} gradients before the first result is fetched, "
            f"{len(slots)} are missing: {shown}. Name exactly the parameters that are reduced together, and fetch "
            "results once all of them have been handed over"
        )


def given_twice(name: str) -> CallOrderError:
    """Return the error for a second gradient of one parameter in a step."""
    return CallOrderError(
        f"gradient {name} was handed over twice in one step: expected each once. Give every optimizer its own "
        "compression"
    )


def is_dense_float(tensor: Any) -> bool:
    """Return whether ``tensor`` could be a gradient to compress: dense, floating, outside autograd."""
    strided = tensor.layout == backends.torch().strided
    return bool(strided and tensor.is_floating_point() and not tensor.requires_grad)


def is_convertible(tensor: Any) -> bool:
    """Return whether float32 can stand for the tensor's dtype."""
    return _is_convertible(tensor.dtype)


@lru_cache(maxsize=64)  # asked for with every gradient
def _is_convertible(dtype: Any) -> bool:
    return str(dtype) in CONVERTIBLE


def require_convertible(tensor: Any) -> None:
    """Raise ``UnsupportedTensor`` unless float32 can stand for the tensor's dtype."""
    if not is_convertible(tensor):
        raise UnsupportedTensor(
            f"expected a gradient of dtype {', '.join(CONVERTIBLE)}, got {tensor.dtype}: exclude it from "
            "named_parameters"
        )
