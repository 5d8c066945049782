"""Names of collectives that two compressions of one program do not share, and that are equal on all ranks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from alq_hvd import backends
from alq_hvd.engine.options import Options


class _Counts:
    """Count the compressions made under each name, in the order of the program, which all ranks share.

    A new world of elastic Horovod counts from the start: ranks that are new in it have made none before.
    """

    def __init__(self) -> None:
        self._world: object = None
        self._made: Counter[tuple[Any, ...]] = Counter()

    def next(self, name: str, process_set: Any) -> int:
        """Return how many compressions of this name and process set there are, this one included."""
        hvd = backends.horovod()
        world = hvd.mpi_ops._handle_map if hvd.is_initialized() else None
        if self._world is not None and world is not self._world:
            self._made.clear()
        self._world = world
        ranks = getattr(process_set, "ranks", None)
        key = (name, None if ranks is None else tuple(ranks))
        self._made[key] += 1
        return self._made[key]


_counts = _Counts()


def unique(options: Options, process_set: Any) -> Options:
    """Return ``options`` with a name of its own: ``alq_hvd``, ``alq_hvd.2`` and so on, in the order of making."""
    number = _counts.next(options.name, process_set)
    return options if number == 1 else replace(options, name=f"{options.name}.{number}")
