"""Which gradient goes where: fixed fusion groups, in the order in which gradients are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_FUSED_PER_RANK = 2**17
"""Coordinates: 64 kB of 4-bit codes to each peer of a two-shot, which a switch carries much faster than it starts."""
_LEAST_FUSED, _MOST_FUSED = 2**19, 2**22


def usual_fusion(ranks: int) -> int:
    """Return the ``fusion_elements`` of a world that has not been measured."""
    return min(max(_FUSED_PER_RANK * ranks, _LEAST_FUSED), _MOST_FUSED)


@dataclass(frozen=True, slots=True)
class Gradient:
    """Describe one gradient that is to be compressed.

    Attributes:
        index: among those that are.
        name: of the parameter, for errors.
        elements: number of coordinates.
        shape: empty where only its length is known.
        place: where it lives; ``None`` for the host.
    """

    index: int
    name: str
    elements: int
    shape: tuple[int, ...] = ()
    place: Any = None


@dataclass(frozen=True, slots=True)
class Slot:
    """Place one gradient.

    Attributes:
        index: of the gradient in the layout.
        name: of the parameter, for errors.
        group: fusion group.
        start: first element within the group's flat buffer.
        elements: number of coordinates.
        shape: of the gradient; empty where only its length is known.
    """

    index: int
    name: str
    group: int
    start: int
    elements: int
    shape: tuple[int, ...] = ()

    @property
    def stop(self) -> int:
        """Return the element after the last one."""
        return self.start + self.elements


@dataclass(frozen=True, slots=True)
class FusionLayout:
    """Lay gradients out in fusion groups, in the order given.

    Attributes:
        slots: one a gradient.
        group_elements: length of each group's flat buffer.
        group_slots: how many gradients each group has.
        group_places: where each group's gradients live.
    """

    slots: tuple[Slot, ...]
    group_elements: tuple[int, ...]
    group_slots: tuple[int, ...]
    group_places: tuple[Any, ...] = ()

    @classmethod
    def build(cls, gradients: Sequence[Gradient], fusion_elements: int) -> FusionLayout:
        """Fill groups up to ``fusion_elements`` coordinates; a larger gradient gets a group of its own.

        A group stays in one place: it is encoded there.

        Args:
            gradients: numbered from 0.
            fusion_elements: of a group.
        """
        slots: list[Slot] = []
        elements: list[int] = []
        counts: list[int] = []
        places: list[Any] = []
        for each in gradients:
            if not elements or elements[-1] + each.elements > fusion_elements or places[-1] != each.place:
                elements.append(0)
                counts.append(0)
                places.append(each.place)
            slots.append(Slot(each.index, each.name, len(elements) - 1, elements[-1], each.elements, each.shape))
            elements[-1] += each.elements
            counts[-1] += 1
        return cls(tuple(slots), tuple(elements), tuple(counts), tuple(places))

    def describe(self) -> list[list[Any]]:
        """Return the names, sizes, shapes and groups on which all ranks must agree."""
        return [[slot.name, slot.elements, list(slot.shape), f"group {slot.group}"] for slot in self.slots]


def gradients_of(named: Iterable[tuple[str, Any]], place_of: Callable[[Any], Any]) -> tuple[Gradient, ...]:
    """Describe the gradients of tensors, in order.

    Args:
        named: pairs of name and a tensor of the gradient's shape.
        place_of: returns where a tensor is to be encoded; ``None`` for the host.
    """
    return tuple(
        Gradient(index, name, tensor.numel(), tuple(tensor.shape), place_of(tensor))
        for index, (name, tensor) in enumerate(named)
    )
