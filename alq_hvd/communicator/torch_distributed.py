"""Collectives of bytes over a process group of torch.distributed: Gloo for the host's memory, NCCL for that of GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Generic

import numpy as np

from alq_hvd import backends
from alq_hvd.communicator import leaving
from alq_hvd.communicator.base import DEFAULT_TIMEOUT, SECOND_LANE, Arrived, Payload, Pending, Result, timed_out
from alq_hvd.communicator.torch_members import Members
from alq_hvd.errors import BackendUnavailable, CommunicationTimeout, ConfigurationError

Tensor = Any
"""A torch.Tensor of bytes, torch.uint8[n]; torch is imported in one place only."""
_SUMS = 2
"""The lane of exact sums."""
_LACKS = ("does not support", "No backend type associated")
"""What torch says of a collective that a backend does not have, and of memory that a group has no backend for."""


class TorchCommunicator:
    """Move bytes with the collectives of torch.distributed; see ``Communicator``.

    torch pairs collectives by the order in which each rank starts them, and not by name. So there are lanes, each a
    Gloo process group of our own: one for collectives whose place in the order of the program is the same on every
    rank, one for those that follow when something has arrived, which is at another time on each rank, and one for
    exact sums of the host's memory. Tensors of a GPU travel over the process group itself, which must have NCCL.

    All ranks must agree on: the order of the collectives within each lane. Fusion groups must be started in the same
    order on every rank; what records say of themselves (step, group, sender) proves that they were.

    Args:
        group: the ``ProcessGroup`` of the ranks; all ranks when ``None``, also after ``init_process_group`` was called
            again.
        timeout: seconds a collective may take.

    Raises:
        ConfigurationError: torch.distributed was not started, or this rank is not in ``group``.
        BackendUnavailable: this torch has no Gloo.
    """

    def __init__(self, group: Any = None, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._dist = backends.torch_distributed()
        self._asked = group
        self.timeout = timeout
        self._known: Members | None = None
        self._is_part = False
        if not self._dist.is_initialized():
            raise ConfigurationError(
                "expected torch.distributed to be started: call torch.distributed.init_process_group() first, and "
                "start the program with torchrun"
            )
        if not self._dist.is_gloo_available():
            raise BackendUnavailable(
                "records travel over Gloo, which this torch was built without: install one of the wheels of pytorch.org"
            )
        if self._dist.get_rank(self.world) < 0:
            raise ConfigurationError(
                f"process group: expected one with rank {self._dist.get_rank()}, which asks for it, got one without: "
                "give each rank the group it belongs to"
            )

    @property
    def world(self) -> object:
        """Return the process group, which stands for its ranks."""
        return self._dist.group.WORLD if self._asked is None else self._asked

    @property
    def rank(self) -> int:
        """Return this process's rank in the process group."""
        return self._members.rank

    @property
    def size(self) -> int:
        """Return the number of ranks in the process group."""
        return self._members.size

    @property
    def _members(self) -> Members:
        world: Any = self.world
        if self._known is None or (self._known.world is not world and not self._is_part):
            self._known = Members.of(world)
        return self._known

    @property
    def tensors(self) -> TorchTensors:
        """Return what carries torch tensors of a GPU, and leaves them there."""
        return TorchTensors(self)

    def part(self, ranks: Sequence[int]) -> TorchCommunicator:
        """Return a communicator of some ``ranks`` of this one; exactly those must call it, with the same list."""
        whole, made = self._members, copy(self)
        store = whole.store_for(f"ranks {','.join(map(str, ranks))}")
        made._known, made._is_part = Members(self.world, ranks.index(whole.rank), len(ranks), store), True
        return made

    def allgather(self, payload: Payload, name: str) -> Pending[list[Payload]]:
        """Give every rank's payload to every rank; lengths must be equal."""
        start = partial(self.start_allgather, _tensor(payload), self._lane(name), name)
        return start(_arrays) if len(payload) else Arrived([payload] * self.size)

    def alltoall(self, payloads: Sequence[Payload], name: str, *, alike: bool = False) -> Pending[list[Payload]]:
        """Give ``payloads[r]`` to rank r; unless lengths are ``alike``, waits for the others to tell theirs."""
        own = [len(payload) for payload in payloads]
        theirs = [own[self.rank]] * self.size if alike else self._lengths(own, name)
        joined = _tensor(np.concatenate(payloads))
        return self.start_alltoall(joined, own, theirs, self._lane(name), name, _arrays)

    def gather(self, payload: Payload, root: int, name: str) -> Pending[list[Payload]]:
        """Give every rank's payload to ``root``: an all-to-all in which only the root receives."""
        own = [len(payload) if rank == root else 0 for rank in range(self.size)]
        theirs = self._lengths(own, name)
        collect: Callable[[list[Tensor]], list[Payload]] = _arrays if self.rank == root else _nothing
        return self.start_alltoall(_tensor(payload), own, theirs, self._lane(name), name, collect)

    def broadcast(self, payload: Payload, root: int, name: str) -> Pending[Payload]:
        """Give the payload of ``root`` to every rank."""
        tensor = _tensor(payload.copy())
        lane, options = self._lane(name), self._dist.BroadcastOptions()
        options.rootRank = root
        return self.start(lambda: lane.broadcast([tensor], options), name, tensor.numpy)

    def start_allgather(
        self, payload: Tensor, lane: Any, name: str, collect: Callable[[list[Tensor]], Result]
    ) -> Started[Result]:
        """Start an all-gather of a tensor; ``collect`` makes the result of one tensor a rank."""
        joined = payload.new_empty(self.size * len(payload))
        parts = list(joined.view(self.size, len(payload)))
        return self.start(lambda: lane.allgather([parts], [payload]), name, lambda: collect(parts))

    def start_alltoall(
        self,
        joined: Tensor,
        own: list[int],
        theirs: list[int],
        lane: Any,
        name: str,
        collect: Callable[[list[Tensor]], Result],
    ) -> Started[Result]:
        """Start an all-to-all of ``own[r]`` bytes to, and ``theirs[r]`` from, each rank r; ``collect`` as above."""
        received = joined.new_empty(sum(theirs))
        return self.start(
            lambda: lane.alltoall_base(received, joined, theirs, own),
            name,
            lambda: collect(list(received.split(theirs))),
        )

    def allreduce(self, tensor: Tensor, name: str, collect: Callable[[], Result]) -> Started[Result]:
        """Start to add ``tensor`` up in place; all ranks in one order.

        A GPU's over the process group itself; the host's over a lane, for a group that has NCCL alone cannot carry it.
        """
        if tensor.is_cuda:
            return self.start(lambda: self._dist.all_reduce(tensor, group=self.world, async_op=True), name, collect)
        lane = self._lane(name, _SUMS)
        return self.start(lambda: lane.allreduce([tensor]), name, collect)

    def _lane(self, name: str, number: int | None = None) -> Any:
        """Return what carries the collective ``name``."""
        try:
            lanes = self._members.lanes(self.timeout)
        except RuntimeError as error:
            raise self.failed(name, error) from error
        return lanes[name.endswith(SECOND_LANE) if number is None else number]

    def failed(self, name: str, error: Exception) -> CommunicationTimeout:
        """Return the error for a collective that torch gave up, or that took too long."""
        leaving.in_time()
        return timed_out(f"rank {self.rank}: {name!r}", self.timeout, _first_line(error))

    def _lengths(self, own: list[int], name: str) -> list[int]:
        """Return how many bytes each rank has for this one."""
        torch = backends.torch()
        told, heard = torch.tensor(own, dtype=torch.int64), torch.empty(self.size, dtype=torch.int64)
        lane = self._lane(name)
        pending = self.start(lambda: lane.alltoall_base(heard, told, [], []), name, heard.tolist)
        lengths: list[int] = pending.wait()
        return lengths

    def start(self, start: Callable[[], Any], name: str, collect: Callable[[], Result]) -> Started[Result]:
        """Start what ``start`` does and returns the handle of; ``collect`` makes the result once it is complete.

        Raises:
            BackendUnavailable: the backend of the process group has no such collective, or none for such memory.
            CommunicationTimeout: torch gave it up.
        """
        try:
            return Started(self, start(), name, collect)
        except RuntimeError as error:
            if any(words in str(error) for words in _LACKS):
                raise self._lacking(name, error) from error
            raise self.failed(name, error) from error

    def _lacking(self, name: str, error: Exception) -> BackendUnavailable:
        backend = self._dist.get_backend(self.world)
        return BackendUnavailable(
            f"rank {self.rank}: {name!r}: expected a process group that has this collective, got one of backend "
            f"{backend!r} ({_first_line(error)}): init_process_group('gloo'), or 'cpu:gloo,cuda:nccl' where there are "
            "GPUs"
        )


@dataclass(frozen=True, slots=True)
class Started(Generic[Result]):
    """Represent a collective that torch runs.

    Attributes:
        work: torch's handle.
        collect: makes the result, once it is complete.
        polls: ``done`` may say yes. NCCL needs all its collectives in one order on all ranks: there, nobody may find
            out early that one is done, and start what follows it.
    """

    communicator: TorchCommunicator
    work: Any
    name: str
    collect: Callable[[], Result]
    polls: bool = True

    def done(self) -> bool:
        """Return whether the collective is known to be complete."""
        return self.polls and bool(self.work.is_completed())

    def wait(self) -> Result:
        """Return the result; of NCCL's collectives at once, for the device waits.

        Raises:
            CommunicationTimeout: when it did not complete in time, or a rank is gone.
        """
        try:
            self.work.wait(timedelta(seconds=self.communicator.timeout))
        except RuntimeError as error:
            raise self.communicator.failed(self.name, error) from error
        return self.collect()


@dataclass(frozen=True, slots=True)
class TorchTensors:
    """Carry tensors of GPUs as they lie, over NCCL; see ``exchange.direct``. Not yet run.

    NCCL waits on the device for what the current stream was given before, and the stream waits for NCCL.
    """

    communicator: TorchCommunicator

    def allgather(self, payload: Tensor, name: str) -> Started[list[Tensor]]:
        """Give every rank's payload to every rank; lengths must be equal."""
        own = self.communicator
        return _unpolled(own.start_allgather(payload, own.world, name, list))

    def alltoall(self, payloads: Sequence[Tensor], name: str, *, alike: bool = False) -> Started[list[Tensor]]:
        """Give ``payloads[r]`` to rank r; lengths must be ``alike``: nothing here waits for those of others."""
        if not alike:
            raise ConfigurationError(f"{name}: expected payloads of the same lengths on every rank over NCCL")
        own, lengths = self.communicator, [len(part) for part in payloads]
        joined, theirs = backends.torch().cat(list(payloads)), [lengths[own.rank]] * own.size
        return _unpolled(own.start_alltoall(joined, lengths, theirs, own.world, name, list))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _unpolled(started: Started[Result]) -> Started[Result]:
    return Started(started.communicator, started.work, started.name, started.collect, polls=False)


def _tensor(payload: Payload) -> Tensor:
    """Return the payload as a torch.uint8 tensor that shares its memory."""
    return backends.torch().from_numpy(np.require(payload, requirements=["C", "W"]))


def _arrays(tensors: list[Tensor]) -> list[Payload]:
    return [tensor.numpy() for tensor in tensors]


def _nothing(tensors: list[Tensor]) -> list[Payload]:
    return []
