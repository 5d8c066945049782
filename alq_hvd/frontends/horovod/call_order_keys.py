"""Recognise a gradient by its position in the order of calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alq_hvd.engine.layout import FusionLayout, Slot
from alq_hvd.errors import CallOrderError
from alq_hvd.frontends.horovod.keys import PlaceOf, on_host


class CallOrderKeys:
    """Recognise a gradient by its position in the order of calls, learnt in the first step.

    The order must then be the same at every step and on every rank; the probe finds out when it is not.

    Args:
        min_elements: smaller gradients are left to Horovod.
        fusion_elements: size of a fusion group.
        place_of: tells where a tensor is to be encoded; on the host without it.
    """

    overwrites = False  # it may be any tensor of the program's own, as in hvd.allreduce(x, compression=...)

    def __init__(self, min_elements: int, fusion_elements: int, place_of: PlaceOf = on_host) -> None:
        self._min_elements = min_elements
        self._fusion_elements = fusion_elements
        self._place_of = place_of
        self._layout: FusionLayout | None = None
        self._seen: list[int] = []
        self._places: list[Any] = []

    @property
    def layout(self) -> FusionLayout | None:
        """Return the layout once the first step's calls have been seen."""
        return self._layout

    def locate(self, tensor: Any) -> Slot | None:
        """Return the slot at the current position of the call order."""
        elements = int(tensor.numel())
        if elements < self._min_elements:
            return None
        position = len(self._seen)
        self._seen.append(elements)
        if self._layout is None:
            self._places.append(self._place_of(tensor))
            return Slot(position, f"number {position}", 0, sum(self._seen[:-1]), elements)
        slots = self._layout.slots
        if position >= len(slots) or slots[position].elements != elements:
            expected = f"{slots[position].elements} elements" if position < len(slots) else "no further gradient"
            raise CallOrderError(
                f"gradient number {position} of this step has {elements} elements, expected {expected} as in the first "
                "step. Pass named_parameters=model.named_parameters() to alq_hvd.Compression, then any order is right"
            )
        return slots[position]

    def is_untouched(self, slot: Slot, tensor: Any) -> bool:
        """Return False: a position says nothing of a tensor's past."""
        return False

    def delivered(self, slot: Slot, tensor: Any) -> None:
        """Learn nothing."""

    def end_of_calls(self) -> FusionLayout:
        """Return the layout, made of the calls of the first step."""
        if self._layout is None:
            sizes = [(f"number {position}", size) for position, size in enumerate(self._seen)]
            self._layout = FusionLayout.build(sizes, self._fusion_elements, self._places)
        return self._layout

    def sparse(self, slots: Sequence[Slot]) -> list[Slot]:
        """Return none: a sparse gradient never enters the call order."""
        return []

    def unmet(self, shapes: Sequence[tuple[int, ...]]) -> list[str]:
        """Return none: whatever is called is expected."""
        return []

    def drop(self, slots: Sequence[Slot]) -> None:
        """Change nothing: there is nothing sparse to drop."""

    def end_step(self) -> None:
        """Start the next step at position 0."""
        self._seen = []

    def reset(self) -> None:
        """Learn the order anew, together with ranks that have yet to learn it."""
        self._layout, self._seen, self._places = None, [], []
