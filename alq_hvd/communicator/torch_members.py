"""Who the ranks of a process group of torch.distributed are, and through which store they find each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from alq_hvd import backends
from alq_hvd.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Members:
    """Keep what belongs to the ranks of one process group, or of a part of it.

    Attributes:
        world: the process group.
        rank, size: among these ranks.
        store: through which they find each other.
        lanes: for the collectives that come first, for those that follow them, and for exact sums that ``world``
            cannot carry; empty before the first one.
    """

    world: object
    rank: int
    size: int
    store: Any
    lanes: list[Any] = field(default_factory=list)

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

    def store_for(self, purpose: str) -> Any:
        """Return a store of its own for ``purpose``: the n-th one is the same on every rank that asks n times."""
        key = f"alq_hvd {purpose}"
        number = self.store.add(f"{key} of rank {self.rank}", 1)
        return backends.torch_distributed().PrefixStore(f"{key} {number}", self.store)


def serves_hosts(group: Any) -> bool:
    """Return whether the process group has a backend for the host's memory."""
    try:
        group._get_backend(backends.torch().device("cpu"))
    except RuntimeError:
        return False
    return True
