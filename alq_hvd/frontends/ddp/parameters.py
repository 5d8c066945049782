"""Where the gradient of each parameter goes, whatever buckets DDP hands it over in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from alq_hvd.engine.layout import FusionLayout, Slot
from alq_hvd.errors import CallOrderError, ConfigurationError

PlaceOf = Callable[[Any], Any]


class Parameters:
    """Lay the parameters of one model out in fusion groups, the last one first: backward passes come from there.

    DDP makes new buckets after the first step; the layout stays, so that a resumed run sends the same records.

    Args:
        named: pairs of name and parameter, in model order; ``None`` for the order, and numbers, of the first buckets.
        min_elements: smaller gradients get no slot.
        fusion_elements: size of a fusion group.
        place_of: tells where a gradient is to be encoded.
    """

    def __init__(
        self, named: Iterable[tuple[str, Any]] | None, min_elements: int, fusion_elements: int, place_of: PlaceOf
    ) -> None:
        self._named = None if named is None else [(name, parameter) for name, parameter in named]
        self._min_elements, self._fusion_elements, self._place_of = min_elements, fusion_elements, place_of
        self._met: dict[int, Any] = {}  # by id; keeping them keeps the ids
        self._slots: dict[int, Slot] = {}
        self.layout: FusionLayout | None = None

    def learn(self, parameters: Sequence[Any]) -> FusionLayout:
        """Return the layout of ``parameters``, all that the buckets of the first step had.

        Raises:
            ConfigurationError: parameters were named, and these are others.
        """
        self._met = {id(parameter): parameter for parameter in parameters}
        kept = [(name, each) for name, each in self._in_order(parameters) if each.numel() >= self._min_elements]
        self.layout = FusionLayout.build(
            [(name, parameter.numel()) for name, parameter in kept],
            self._fusion_elements,
            [self._place_of(parameter) for _, parameter in kept],
            [tuple(parameter.shape) for _, parameter in kept],
        )
        self._slots = {id(parameter): slot for (_, parameter), slot in zip(kept, self.layout.slots, strict=True)}
        return self.layout

    def slot(self, parameter: Any) -> Slot | None:
        """Return where the gradient of ``parameter`` goes; ``None`` for a small one.

        Raises:
            CallOrderError: it is of another model.
        """
        if id(parameter) not in self._met:
            raise CallOrderError(
                f"expected gradients of the {len(self._met)} parameters of the first step, got one of another "
                f"parameter, of shape {tuple(parameter.shape)}: give every model a CompressionState of its own"
            )
        return self._slots.get(id(parameter))

    def _in_order(self, parameters: Sequence[Any]) -> list[tuple[str, Any]]:
        if self._named is None:
            return [(f"number {number}", parameter) for number, parameter in enumerate(parameters)]
        named = [(name, parameter) for name, parameter in reversed(self._named) if id(parameter) in self._met]
        unnamed = len(self._met) - len({id(parameter) for _, parameter in named})
        if unnamed:
            raise ConfigurationError(
                f"named_parameters: expected those of the model that has the hook, got none for {unnamed} of its "
                f"{len(self._met)} parameters: pass model.named_parameters(), after the model has its final parameters"
            )
        return named
