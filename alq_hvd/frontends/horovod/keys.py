"""Which gradient a tensor is: Horovod hands it over without a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from alq_hvd.engine.layout import FusionLayout, Slot

PlaceOf = Callable[[Any], Any]
"""Return where a tensor is to be encoded: a device, or ``None`` for the host."""


def on_host(tensor: Any) -> None:
    """Encode every tensor on the host."""


class Keys(Protocol):
    """Tell which gradient a tensor is."""

    overwrites: bool
    """A gradient is overwritten with its sum, which saves memory, and not left as it was."""

    @property
    def layout(self) -> FusionLayout | None:
        """Return the layout, or ``None`` while the first step is still being learnt."""
        ...

    def locate(self, tensor: Any) -> Slot | None:
        """Return the slot of ``tensor``, or ``None`` when it is not to be compressed."""
        ...

    def is_untouched(self, slot: Slot, tensor: Any) -> bool:
        """Return whether ``tensor`` is what the last step has reduced for ``slot``, and nobody has changed it."""
        ...

    def delivered(self, slot: Slot, tensor: Any) -> None:
        """Learn that ``tensor`` is the reduced gradient of ``slot``."""
        ...

    def end_of_calls(self) -> FusionLayout:
        """Learn that every gradient of the step has been seen, and return the layout."""
        ...

    def sparse(self, slots: Sequence[Slot]) -> list[Slot]:
        """Return those of ``slots`` whose gradients turned out to be sparse: Horovod reduces them without asking."""
        ...

    def unmet(self, shapes: Sequence[tuple[int, ...]]) -> list[str]:
        """Return the names of the expected parameters when tensors of these ``shapes``, of others, came in their place.

        That is so when the optimizer trains other objects than those that were named here.
        """
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
