"""Which gradient goes where: fixed fusion groups, in the order in which gradients are given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


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
    def build(
        cls,
        gradients: Iterable[tuple[str, int]],
        fusion_elements: int,
        places: Sequence[Any] | None = None,
        shapes: Sequence[tuple[int, ...]] | None = None,
    ) -> FusionLayout:
        """Fill groups up to ``fusion_elements`` coordinates; a larger gradient gets a group of its own.

        Args:
            gradients: name and number of coordinates of each.
            fusion_elements: of a group.
            places: where each gradient lives, ``None`` for the host, which is where all live without this argument. A
                group stays in one place: it is encoded there.
            shapes: of each gradient.
        """
        slots: list[Slot] = []
        elements: list[int] = []
        counts: list[int] = []
        group_places: list[Any] = []
        for index, (name, size) in enumerate(gradients):
            place = places[index] if places else None
            if not elements or elements[-1] + size > fusion_elements or group_places[-1] != place:
                elements.append(0)
                counts.append(0)
                group_places.append(place)
            shape = shapes[index] if shapes else ()
            slots.append(Slot(index, name, len(elements) - 1, elements[-1], size, shape))
            elements[-1] += size
            counts[-1] += 1
        return cls(tuple(slots), tuple(elements), tuple(counts), tuple(group_places))

    def describe(self) -> list[list[Any]]:
        """Return the names, sizes, shapes and groups on which all ranks must agree."""
        return [[slot.name, slot.elements, list(slot.shape), f"group {slot.group}"] for slot in self.slots]
