"""Where the gradient of each parameter goes, whatever buckets DDP hands it over in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from alq_hvd.engine.layout import Gradient, gradients_of
from alq_hvd.errors import CallOrderError, ConfigurationError, UnsupportedTensor

PlaceOf = Callable[[Any], Any]


class Parameters:
    """Put the parameters of one model in order, the last one first: backward passes come from there.

    DDP makes new buckets after the first step. The order stays, so that a resumed run sends the same records and
    adds up small gradients in the same order.

    Args:
        named: pairs of name and parameter, in model order; ``None`` for the order, and numbers, of the first buckets.
        min_elements: smaller gradients are not compressed.
        place_of: tells where a gradient is to be encoded.
    """

    def __init__(self, named: Iterable[tuple[str, Any]] | None, min_elements: int, place_of: PlaceOf) -> None:
        self._named = None if named is None else [(name, parameter) for name, parameter in named]
        self._min_elements, self._place_of = min_elements, place_of
        self._met: dict[int, Any] = {}  # by id; keeping them keeps the ids
        self._positions: dict[int, int] = {}
        self._indices: dict[int, int] = {}
        self.gradients: tuple[Gradient, ...] | None = None

    def learn(self, parameters: Sequence[Any]) -> tuple[Gradient, ...]:
        """Return the gradients to compress of ``parameters``, all that the buckets of the first step had.

        Raises:
            ConfigurationError: parameters were named, and these are others.
            UnsupportedTensor: one is complex: a bucket shows a half of its gradient, as real numbers.
        """
        complex_ones = [parameter for parameter in parameters if parameter.is_complex()]
        if complex_ones:
            raise UnsupportedTensor(
                f"expected real parameters, got {len(complex_ones)} of dtype {complex_ones[0].dtype}: train with "
                'method="none", or keep real and imaginary parts in parameters of their own'
            )
        self._met = {id(parameter): parameter for parameter in parameters}
        ordered = self._in_order(parameters)
        self._positions = {id(parameter): position for position, (_, parameter) in enumerate(ordered)}
        kept = [(name, each) for name, each in ordered if each.numel() >= self._min_elements]
        self.gradients = gradients_of(kept, self._place_of)
        self._indices = {id(parameter): index for index, (_, parameter) in enumerate(kept)}
        return self.gradients

    def index(self, parameter: Any) -> int | None:
        """Return the number of the gradient of ``parameter``; ``None`` for a small one.

        Raises:
            CallOrderError: it is of another model.
        """
        if id(parameter) not in self._met:
            raise CallOrderError(
                f"expected gradients of the {len(self._met)} parameters of the first step, got one of another "
                f"parameter, of shape {tuple(parameter.shape)}: give every model a CompressionState of its own"
            )
        return self._indices.get(id(parameter))

    def in_order(self, gradients: Sequence[tuple[Any, Any]]) -> list[Any]:
        """Return the gradients of pairs of parameter and gradient, in the order of the parameters.

        An all-reduce adds up in an order that depends on where a value lies: the same place in each step, and in a
        resumed run, gives the same bits.
        """
        return [gradient for _, gradient in sorted(gradients, key=lambda pair: self._positions[id(pair[0])])]

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
