"""Collectives of bytes through stock Horovod: over MPI, Gloo or NCCL, whichever it was built and started with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alq_hvd import backends
from alq_hvd.communicator.base import DEFAULT_TIMEOUT, Payload, Pending, Polled, Result
from alq_hvd.errors import ConfigurationError, WireFormatError


@dataclass(frozen=True, slots=True)
class HorovodCommunicator:
    """Move bytes with Horovod's named asynchronous collectives; see ``Communicator``.

    ``HorovodInternalError``, with which elastic Horovod reports a lost rank, is passed on as it is.

    Attributes:
        process_set: a ``horovod.ProcessSet``; the global one when ``None``.
        timeout: seconds a collective may take.
    """

    process_set: Any = None
    timeout: float = DEFAULT_TIMEOUT
    _hvd: Any = field(default_factory=backends.horovod, repr=False)

    def __post_init__(self) -> None:
        if self.process_set is None:
            object.__setattr__(self, "process_set", self._hvd.global_process_set)
        if self.process_set.included() is False:
            raise ConfigurationError(
                f"process_set: expected one with rank {self._hvd.rank()}, which asks for it, got ranks "
                f"{self.process_set.ranks}: give each rank the set it belongs to"
            )

    @property
    def rank(self) -> int:
        """Return this process's rank in the process set."""
        return int(self.process_set.rank())

    @property
    def size(self) -> int:
        """Return the number of ranks in the process set."""
        return int(self.process_set.size())

    @property
    def world(self) -> object:
        """Return the table of open operations, which ``hvd.init()`` replaces: Horovod itself has no name for a world.

        Whoever keeps it keeps it apart from every later one.
        """
        return self._hvd.mpi_ops._handle_map

    @property
    def world_ranks(self) -> list[int]:
        """Return the ranks of the process set as the whole world numbers them."""
        return list(self.process_set.ranks or range(self.size))

    def allgather(self, payload: Payload, name: str) -> Pending[list[Payload]]:
        """Give every rank's payload to every rank; lengths must be equal (Horovod does not deliver them)."""
        handle = self._hvd.allgather_async(_tensor(payload), name=name, process_set=self.process_set)
        return self._pending(handle, f"allgather {name!r}", self._equal_parts)

    def alltoall(self, payloads: Sequence[Payload], name: str) -> Pending[list[Payload]]:
        """Give ``payloads[r]`` to rank r; lengths may differ."""
        torch = backends.torch()
        splits = torch.tensor([len(payload) for payload in payloads], dtype=torch.int32)
        handle = self._hvd.alltoall_async(
            _tensor(np.concatenate(payloads)), splits=splits, name=name, process_set=self.process_set
        )

        def received(output: Any) -> list[Payload]:
            joined, lengths = output
            return np.split(_array(joined), np.cumsum(lengths.numpy())[:-1])

        return self._pending(handle, f"alltoall {name!r}", received)

    def gather(self, payload: Payload, root: int, name: str) -> Pending[list[Payload]]:
        """Give every rank's payload to ``root``: an all-to-all in which only the root receives."""
        nothing = payload[:0]
        pending = self.alltoall([payload if rank == root else nothing for rank in range(self.size)], name)
        if self.rank == root:
            return pending
        return Polled(pending.done, lambda: pending.wait()[:0], f"gather {name!r}", self.timeout)

    def broadcast(self, payload: Payload, root: int, name: str) -> Pending[Payload]:
        """Give the payload of ``root`` to every rank."""
        handle = self._hvd.broadcast_async(
            _tensor(payload), self.world_ranks[root], name=name, process_set=self.process_set
        )
        return self._pending(handle, f"broadcast {name!r}", _array)

    def _equal_parts(self, output: Any) -> list[Payload]:
        joined = _array(output)
        if joined.size % self.size:
            raise WireFormatError(
                f"rank {self.rank}: expected {self.size} payloads of equal length, got {joined.size} bytes together: "
                "start every rank with the same options and the same model"
            )
        return np.split(joined, self.size)

    def _pending(self, handle: int, what: str, collect: Callable[[Any], Result]) -> Polled[Result]:
        return Polled(
            ask=lambda: bool(self._hvd.poll(handle)),
            collect=lambda: collect(self._hvd.synchronize(handle)),
            describe=f"rank {self.rank}: {what}",
            timeout=self.timeout,
        )


def _tensor(payload: Payload) -> Any:
    """Return the payload as a torch.uint8 tensor that shares its memory."""
    return backends.torch().from_numpy(np.require(payload, requirements=["C", "W"]))


def _array(tensor: Any) -> Payload:
    array: Payload = tensor.numpy()
    return array
