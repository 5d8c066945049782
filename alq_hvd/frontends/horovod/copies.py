"""Copies and pickles of a compression: options, parameters and state, made into a new one."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any


class Copied(ABC):
    """Support ``copy.deepcopy`` and pickle between steps, with everything that does not belong to the present world."""

    @property
    @abstractmethod
    def _made_of(self) -> dict[str, Any]:
        """Return the arguments that make one like this, but for its state."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Copied:
        """Return a compression with this one's levels and step, for the copies of its parameters in ``memo``."""
        return _restored(type(self), *copy.deepcopy((self._made_of, self.state_dict()), memo))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle options, parameters and state, between steps; a process set by its ranks, as Horovod pickles it."""
        return _restored, (type(self), self._made_of, self.state_dict())


def _restored(kind: type[Copied], made_of: dict[str, Any], state: dict[str, Any]) -> Copied:
    restored = kind(**made_of)
    restored.load_state_dict(state)
    return restored
