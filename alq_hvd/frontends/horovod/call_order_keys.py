"""Recognise a gradient by its position in the order of calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from alq_hvd.engine.layout import Gradient
from alq_hvd.errors import CallOrderError
from alq_hvd.frontends.horovod.keys import PlaceOf, on_host


class CallOrderKeys:
    """Recognise a gradient by its position in the order of calls, learned in the first step.

    The order must then be the same at every step and on every rank; the probe finds out when it is not.

    Args:
        min_elements: smaller gradients are left to Horovod.
        place_of: tells where a tensor is to be encoded; on the host without it.
    """

    overwrites = False  # it may be any tensor of the program's own, as in hvd.allreduce(x, compression=...)

    def __init__(self, min_elements: int, place_of: PlaceOf = on_host) -> None:
        self._min_elements = min_elements
        self._place_of = place_of
        self.reset()

    @property
    def gradients(self) -> Sequence[Gradient] | None:
        """Return the gradients to compress once the first step's calls have been seen."""
        return self._known if self._is_learnt else None

    def locate(self, tensor: Any) -> Gradient | None:
        """Return the gradient at the current position of the call order."""
        elements = int(tensor.numel())
        if elements < self._min_elements:
            return None
        position, known = self._position, self._known
        self._position += 1
        if not self._is_learnt:
            known.append(Gradient(position, f"number {position}", elements, place=self._place_of(tensor)))
        elif position >= len(known) or known[position].elements != elements:
            expected = f"{known[position].elements} elements" if position < len(known) else "no further gradient"
            raise CallOrderError(
                f"gradient number {position} of this step has {elements} elements, expected {expected} as in the first "
                "step. Pass named_parameters=model.named_parameters() to alq_hvd.Compression, then any order is right"
            )
        return known[position]

    def is_untouched(self, index: int, tensor: Any) -> bool:
        """Return False: a position says nothing of a tensor's past."""
        return False

    def delivered(self, index: int, tensor: Any) -> None:
        """Learn nothing."""

    def end_of_calls(self) -> Sequence[Gradient]:
        """Return the gradients of the first step."""
        self._is_learnt = True
        return self._known

    def sparse(self, indices: Iterable[int]) -> list[int]:
        """Return none: a sparse gradient never enters the call order."""
        return []

    def unmet(self, shapes: Sequence[tuple[int, ...]]) -> list[str]:
        """Return none: whatever is called is expected."""
        return []

    def drop(self, indices: Iterable[int]) -> None:
        """Change nothing: there is nothing sparse to drop."""

    def end_step(self) -> None:
        """Start the next step at position 0."""
        self._position = 0

    def reset(self) -> None:
        """Learn the order again, together with ranks that have yet to learn it."""
        self._known: list[Gradient] = []
        self._is_learnt = False
        self._position = 0
