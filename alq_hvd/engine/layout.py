"""Which gradient goes where: fixed fusion groups, in model order or, without names, in the order of the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from alq_hvd.errors import CallOrderError, ConfigurationError


@dataclass(frozen=True, slots=True)
class Slot:
    """Place one gradient.

    Attributes:
        index: of the gradient in the layout.
        name: of the parameter, for errors.
        group: fusion group.
        start: first element within the group's flat buffer.
        elements: number of coordinates.
    """

    index: int
    name: str
    group: int
    start: int
    elements: int

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
        cls, gradients: Iterable[tuple[str, int]], fusion_elements: int, places: Sequence[Any] | None = None
    ) -> FusionLayout:
        """Fill groups up to ``fusion_elements`` coordinates; a larger gradient gets a group of its own.

        Args:
            gradients: name and number of coordinates of each.
            fusion_elements: of a group.
            places: where each gradient lives, ``None`` for the host, which is where all live without this argument. A
                group stays in one place: it is encoded there.
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
            slots.append(Slot(index, name, len(elements) - 1, elements[-1], size))
            elements[-1] += size
            counts[-1] += 1
        return cls(tuple(slots), tuple(elements), tuple(counts), tuple(group_places))

    def describe(self) -> list[list[Any]]:
        """Return the names, sizes and groups on which all ranks must agree."""
        return [[slot.name, slot.elements, f"group {slot.group}"] for slot in self.slots]


PlaceOf = Callable[[Any], Any]
"""Return where a tensor is to be encoded: a device, or ``None`` for the host."""


def on_host(tensor: Any) -> None:
    """Encode every tensor on the host."""


class Keys(Protocol):
    """Tell which gradient a tensor is, in the absence of a name from Horovod."""

    @property
    def layout(self) -> FusionLayout | None:
        """Return the layout, or ``None`` while the first step is still being learnt."""
        ...

    def locate(self, tensor: Any) -> Slot | None:
        """Return the slot of ``tensor``, or ``None`` when it is not to be compressed."""
        ...

    def end_of_calls(self) -> FusionLayout:
        """Learn that every gradient of the step has been seen, and return the layout."""
        ...

    def is_sparse(self, slot: Slot) -> bool:
        """Return whether the gradient of ``slot`` turned out to be sparse: Horovod reduces it without asking."""
        ...

    def drop(self, slots: Sequence[Slot]) -> None:
        """Make a new layout without ``slots``."""
        ...

    def end_step(self) -> None:
        """Get ready for the next step."""
        ...

    def reset(self) -> None:
        """Forget what was learnt from gradients: ranks that are new in the world know nothing of it."""
        ...


class IdentityKeys:
    """Recognise a gradient because it *is* ``parameter.grad``: hooks may fire in any order on any rank.

    Args:
        named_parameters: pairs of name and torch parameter, in model order.
        min_elements: smaller gradients are left to Horovod.
        fusion_elements: size of a fusion group.
        place_of: tells where a tensor is to be encoded; on the host without it. It is asked when the layout is first
            needed, by when the model has been moved to where it is trained.
    """

    def __init__(
        self,
        named_parameters: Sequence[tuple[str, Any]],
        min_elements: int,
        fusion_elements: int,
        place_of: PlaceOf = on_host,
    ) -> None:
        names = [name for name, _ in named_parameters]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ConfigurationError(f"named_parameters: expected unique names, got {', '.join(doubled)} twice")
        kept = [
            (name, parameter)
            for name, parameter in named_parameters
            if parameter.requires_grad and parameter.is_floating_point() and parameter.numel() >= min_elements
        ]
        self._min_elements = min_elements
        self._fusion_elements = fusion_elements
        self._place_of = place_of
        self._all = kept
        self._lay_out(kept)

    def _lay_out(self, kept: list[tuple[str, Any]]) -> None:
        self._kept = kept
        self._layout: FusionLayout | None = None
        # Hooks fire in much the same order every step: after gradient i, try the one that followed it last time.
        self._follower = [*range(1, len(kept)), 0]
        self._last = len(kept) - 1

    @property
    def layout(self) -> FusionLayout:
        """Return the layout, made when it is first asked for."""
        if self._layout is None:
            sizes = [(name, parameter.numel()) for name, parameter in self._kept]
            places = [self._place_of(parameter) for _, parameter in self._kept]
            self._layout = FusionLayout.build(sizes, self._fusion_elements, places)
        return self._layout

    def locate(self, tensor: Any) -> Slot | None:
        """Return the slot of the parameter whose gradient ``tensor`` is."""
        if not self._kept or tensor.numel() < self._min_elements:
            return None
        guess: int = self._follower[self._last]
        if self._kept[guess][1].grad is not tensor:
            for index, (_, parameter) in enumerate(self._kept):
                if parameter.grad is tensor:
                    self._follower[self._last] = guess = index
                    break
            else:
                return None
        self._last = guess
        return self.layout.slots[guess]

    def end_of_calls(self) -> FusionLayout:
        """Return the layout."""
        return self.layout

    def is_sparse(self, slot: Slot) -> bool:
        """Return whether the parameter's gradient is sparse."""
        gradient = self._kept[slot.index][1].grad
        return bool(gradient is not None and str(gradient.layout) != "torch.strided")

    def drop(self, slots: Sequence[Slot]) -> None:
        """Make a new layout without the parameters of ``slots``."""
        gone = {slot.index for slot in slots}
        self._lay_out([pair for index, pair in enumerate(self._kept) if index not in gone])

    def end_step(self) -> None:
        """Change nothing: identity needs no position."""

    def reset(self) -> None:
        """Expect every parameter's gradient to be dense again."""
        self._lay_out(self._all)


class CallOrderKeys:
    """Recognise a gradient by its position in the order of calls, learnt in the first step.

    The order must then be the same at every step and on every rank; the probe finds out when it is not.

    Args:
        min_elements: smaller gradients are left to Horovod.
        fusion_elements: size of a fusion group.
        place_of: tells where a tensor is to be encoded; on the host without it.
    """

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

    def end_of_calls(self) -> FusionLayout:
        """Return the layout, made of the calls of the first step."""
        if self._layout is None:
            sizes = [(f"number {position}", size) for position, size in enumerate(self._seen)]
            self._layout = FusionLayout.build(sizes, self._fusion_elements, self._places)
        return self._layout

    def is_sparse(self, slot: Slot) -> bool:
        """Return False: a sparse gradient never enters the call order."""
        return False

    def drop(self, slots: Sequence[Slot]) -> None:
        """Change nothing: there is nothing sparse to drop."""

    def end_step(self) -> None:
        """Start the next step at position 0."""
        self._seen = []

    def reset(self) -> None:
        """Learn the order anew, together with ranks that have yet to learn it."""
        self._layout, self._seen, self._places = None, [], []


def keys(
    named_parameters: Iterable[tuple[str, Any]] | None, min_elements: int, fusion_elements: int, place_of: PlaceOf
) -> Keys:
    """Return ``IdentityKeys`` of ``named_parameters``, or ``CallOrderKeys`` without them."""
    if named_parameters is None:
        return CallOrderKeys(min_elements, fusion_elements, place_of)
    return IdentityKeys(list(named_parameters), min_elements, fusion_elements, place_of)
