"""Collectives of bytes through stock Horovod: over MPI, Gloo or NCCL, whichever it was built and started with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alq_hvd import backends
from alq_hvd.communicator.base import DEFAULT_TIMEOUT, Payload, Pending, Polled, Result
from alq_hvd.errors import ConfigurationError, WireFormatError

Tensor = Any
"""A torch.Tensor of bytes, torch.uint8[n]; torch is imported in one place only."""


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

    @property
    def tensors(self) -> HorovodTensors:
        """Return what carries torch tensors, wherever they are, and leaves them there."""
        return HorovodTensors(self)

    def allgather(self, payload: Payload, name: str) -> Pending[list[Payload]]:
        """Give every rank's payload to every rank; lengths must be equal (Horovod does not deliver them)."""
        return self.start_allgather(_tensor(payload), name, _arrays)

    def alltoall(self, payloads: Sequence[Payload], name: str, *, alike: bool = False) -> Pending[list[Payload]]:
        """Give ``payloads[r]`` to rank r; lengths may differ."""
        return self.start_alltoall(_tensor(np.concatenate(payloads)), [len(part) for part in payloads], name, _arrays)

    def start_allgather(self, payload: Tensor, name: str, collect: Callable[[list[Tensor]], Result]) -> Polled[Result]:
        """Start an all-gather of a tensor; ``collect`` makes the result of one tensor a rank."""
        rank, size = self.rank, self.size  # now: when this is done, another rank may already have shut Horovod down
        handle = self._hvd.allgather_async(payload, name=name, process_set=self.process_set)
        return self.pending(handle, f"allgather {name!r}", lambda joined: collect(_equal_parts(joined, rank, size)))

    def start_alltoall(
        self, joined: Tensor, lengths: Sequence[int], name: str, collect: Callable[[list[Tensor]], Result]
    ) -> Polled[Result]:
        """Start an all-to-all of ``lengths[r]`` bytes to each rank r; ``collect`` as in ``start_allgather``."""
        splits = backends.torch().tensor(lengths, dtype=backends.torch().int32, device="cpu")
        handle = self._hvd.alltoall_async(joined, splits=splits, name=name, process_set=self.process_set)

        def received(output: tuple[Tensor, Tensor]) -> Result:
            joined, lengths = output
            return collect(list(joined.split(lengths.tolist())))

        return self.pending(handle, f"alltoall {name!r}", received)

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
        return self.pending(handle, f"broadcast {name!r}", _array)

    def pending(self, handle: int, what: str, collect: Callable[[Any], Result]) -> Polled[Result]:
        """Return what waits for ``handle`` of an operation of Horovod, and makes a result of its output."""
        return Polled(
            ask=lambda: bool(self._hvd.poll(handle)),
            collect=lambda: collect(self._hvd.synchronize(handle)),
            describe=f"rank {self.rank}: {what}",
            timeout=self.timeout,
        )


@dataclass(frozen=True, slots=True)
class HorovodTensors:
    """Carry tensors as they lie, in place of arrays of the host; see ``exchange.direct``.

    Horovod waits on the device for what the current stream was given before, and a collective is done when its result
    is there. NCCL carries tensors of a GPU, where Horovod was built with ``HOROVOD_GPU_OPERATIONS=NCCL``.
    """

    communicator: HorovodCommunicator

    def allgather(self, payload: Tensor, name: str) -> Polled[list[Tensor]]:
        """Give every rank's payload to every rank; lengths must be equal."""
        return self.communicator.start_allgather(payload, name, list)

    def alltoall(self, payloads: Sequence[Tensor], name: str, *, alike: bool = False) -> Polled[list[Tensor]]:
        """Give ``payloads[r]`` to rank r; lengths may differ."""
        joined = backends.torch().cat(list(payloads))
        return self.communicator.start_alltoall(joined, [len(part) for part in payloads], name, list)


def _tensor(payload: Payload) -> Any:
    """Return the payload as a torch.uint8 tensor that shares its memory."""
    return backends.torch().from_numpy(np.require(payload, requirements=["C", "W"]))


def _equal_parts(joined: Tensor, rank: int, size: int) -> list[Tensor]:
    if joined.numel() % size:
        raise WireFormatError(
            f"rank {rank}: expected {size} payloads of equal length, got {joined.numel()} bytes together: start every "
            "rank with the same options and the same model"
        )
    return list(joined.view(size, joined.numel() // size))


def _array(tensor: Tensor) -> Payload:
    array: Payload = tensor.numpy()
    return array


def _arrays(tensors: list[Tensor]) -> list[Payload]:
    return [_array(tensor) for tensor in tensors]
