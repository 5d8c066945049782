"""Which gradient a tensor is: Horovod hands it over without a name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from alq_hvd.engine.layout import Gradient
from alq_hvd.errors import ConfigurationError

PlaceOf = Callable[[Any], Any]
"""Return where a tensor is to be encoded: a device, or ``None`` for the host."""


def on_host(tensor: Any) -> None:
    """Encode every tensor on the host."""


class Keys(Protocol):
    """Tell which gradient a tensor is."""

    overwrites: bool
    """A gradient is overwritten with its sum, which saves memory, and not left as it was."""

    @property
    def gradients(self) -> Sequence[Gradient] | None:
        """Return the gradients to compress, or ``None`` while the first step is still being learned."""
        ...

    def locate(self, tensor: Any) -> Gradient | None:
        """Return which gradient ``tensor`` is, or ``None`` when it is not to be compressed."""
        ...

    def is_untouched(self, index: int, tensor: Any) -> bool:
        """Return whether ``tensor`` is what the last step reduced for gradient ``index``, unchanged."""
        ...

    def delivered(self, index: int, tensor: Any) -> None:
        """Learn that ``tensor`` is the reduced gradient ``index``."""
        ...

    def end_of_calls(self) -> Sequence[Gradient]:
        """Learn that every gradient of the step has been seen, and return those to compress."""
        ...

    def sparse(self, indices: Iterable[int]) -> list[int]:
        """Return those of the gradients that turned out to be sparse: Horovod reduces them without asking."""
        ...

    def unmet(self, shapes: Sequence[tuple[int, ...]]) -> list[str]:
        """Return the names of the expected parameters when tensors of these ``shapes``, of others, came in their place.

        That is so when the optimizer trains other objects than those that were named here.
        """
        ...

    def drop(self, indices: Iterable[int]) -> None:
        """Compress these gradients no more; the others get new numbers."""
        ...

    def end_step(self) -> None:
        """Get ready for the next step."""
        ...

    def reset(self) -> None:
        """Forget what was learned from gradients: ranks that are new in the world know nothing of it."""
        ...


def require_met(keys: Keys, shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise ``ConfigurationError`` if the optimizer's gradients are those of other parameters than were named.

    Args:
        keys: that recognised none of a step's gradients.
        shapes: of these.
    """
    unmet = keys.unmet(shapes)
    if unmet:
        shown = ", ".join(unmet[:5]) + (" ..." if len(unmet) > 5 else "")
        raise ConfigurationError(
            f"named_parameters: expected the parameters that the optimizer trains, got others: {shown} had no "
            "gradient, while gradients of the same shapes came from elsewhere. Make the compression after the "
            "model has its final parameters: after copies, to_empty(), load_state_dict(assign=True) and wrappers"
        )
