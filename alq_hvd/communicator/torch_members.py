"""Who the ranks of a process group of torch.distributed are, and through which store they find each other."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from alq_hvd import backends
from alq_hvd.errors import ConfigurationError

LANES = 3
"""For the collectives that come first, for those that follow them, and for exact sums of the host's memory."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Members:
    """Keep what belongs to the ranks of one process group, or of a part of it.

    Attributes:
        world: the process group.
        rank, size: among these ranks.
        store: through which they find each other.
    """

    world: object
    rank: int
    size: int
    store: Any
    _lanes: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, world: Any) -> Members:
        """Return the ranks of a process group.

        Raises:
            ConfigurationError: it has no store.
        """
        dist = backends.torch_distributed()
        rank, size, store = dist.get_rank(world), dist.get_world_size(world), world.get_group_store()
        if store is None:
            raise ConfigurationError(
                f"rank {rank}: process group: expected one with a store, through which ranks find each other, got one "
                f"of backend {dist.get_backend(world)!r} without: init_process_group('gloo'), or 'cpu:gloo,cuda:nccl' "
                "where there are GPUs, and start the program with torchrun"
            )
        return cls(world, rank, size, store)

    def lanes(self, timeout: float) -> list[Any]:
        """Return ``LANES`` Gloo process groups of our own.

        All are made at once, for each rank first needs the second at another time. They end with the program, before
        its interpreter does: a thread of Gloo's that lets go of a tensor later than that needs an interpreter that is
        gone, and aborts the process.

        Args:
            timeout: seconds that the ranks may take to find each other, and a collective may take.

        Raises:
            RuntimeError: they did not find each other.
        """
        if not self._lanes:
            gloo, limit = backends.torch_distributed().ProcessGroupGloo, timedelta(seconds=timeout)
            stores = [self.store_for(f"lane {number}") for number in range(LANES)]
            self._lanes.extend([gloo(store, self.rank, self.size, limit) for store in stores])
            weakref.finalize(self, self._lanes.clear)  # at exit too; their destructors wait for their threads
        return self._lanes

    def store_for(self, purpose: str) -> Any:
        """Return a store of its own for ``purpose``: the n-th one is the same on every rank that asks n times."""
        key = f"alq_hvd {purpose}"
        number = self.store.add(f"{key} of rank {self.rank}", 1)
        return backends.torch_distributed().PrefixStore(f"{key} {number}", self.store)
