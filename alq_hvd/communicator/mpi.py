"""Collectives of bytes through mpi4py, on communicators of our own: levels beside Horovod, or all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alq_hvd import backends
from alq_hvd.communicator.base import DEFAULT_TIMEOUT, SECOND_LANE, Payload, Pending, Polled, Result
from alq_hvd.errors import BackendUnavailable


@dataclass(frozen=True, slots=True)
class MpiCommunicator:
    """Move bytes with MPI's non-blocking collectives; see ``Communicator``.

    MPI matches collectives by order, not by name: all ranks must start them in the same order, but for those that
    follow others of their fusion group, which need a lane of their own (see ``SECOND_LANE``).

    Attributes:
        comm: a duplicate of ours, an ``mpi4py.MPI.Comm``; no other traffic may use it.
        timeout: seconds a collective may take.
        second: another duplicate, the second lane; ``None`` where nothing but statistics and levels travels.
    """

    comm: Any
    timeout: float = DEFAULT_TIMEOUT
    second: Any = None
    _mpi: Any = field(default_factory=backends.mpi, repr=False)

    @classmethod
    def for_ranks(cls, ranks: Sequence[int], timeout: float = DEFAULT_TIMEOUT) -> MpiCommunicator:
        """Return a communicator over the world ranks ``ranks``; collective over exactly those ranks.

        Raises:
            BackendUnavailable: when MPI was not started by Horovod for all of them.
        """
        mpi = backends.mpi()
        reason = unusable(len(ranks))
        if reason:
            raise BackendUnavailable(f"cannot exchange levels over MPI: {reason}")
        world = mpi.COMM_WORLD
        group = world.Get_group().Incl(list(ranks))
        return cls(world.Create_group(group), timeout)

    @classmethod
    def beside(cls, comm: Any, timeout: float = DEFAULT_TIMEOUT) -> MpiCommunicator:
        """Return a communicator of records over duplicates of ``comm``; every rank of it must call this."""
        return cls(comm.Dup(), timeout, comm.Dup())

    def _lane(self, name: str) -> Any:
        return self.comm if self.second is None or not name.endswith(SECOND_LANE) else self.second

    @property
    def rank(self) -> int:
        """Return this process's rank in the communicator."""
        return int(self.comm.Get_rank())

    @property
    def size(self) -> int:
        """Return the number of ranks in the communicator."""
        return int(self.comm.Get_size())

    @property
    def world(self) -> object:
        """Return the MPI communicator: MPI's worlds do not change."""
        return self.comm

    def allgather(self, payload: Payload, name: str) -> Pending[list[Payload]]:
        """Give every rank's payload to every rank."""
        lengths = np.empty(self.size, dtype=np.int64)
        self._finish(self._lane(name).Iallgather(np.array([len(payload)], dtype=np.int64), lengths), name)
        received = np.empty(int(lengths.sum()), dtype=np.uint8)
        request = self._lane(name).Iallgatherv(payload, [received, lengths, _starts(lengths), self._mpi.BYTE])
        return self._pending(request, name, lambda: np.split(received, np.cumsum(lengths)[:-1]), payload)

    def alltoall(self, payloads: Sequence[Payload], name: str, *, alike: bool = False) -> Pending[list[Payload]]:
        """Give ``payloads[r]`` to rank r."""
        mine = np.array([len(payload) for payload in payloads], dtype=np.int64)
        theirs = np.full_like(mine, mine[self.rank])
        if not alike:
            self._finish(self._lane(name).Ialltoall(mine, theirs), name)
        sent, received = np.concatenate(payloads), np.empty(int(theirs.sum()), dtype=np.uint8)
        byte = self._mpi.BYTE
        request = self._lane(name).Ialltoallv(
            [sent, mine, _starts(mine), byte], [received, theirs, _starts(theirs), byte]
        )
        return self._pending(request, name, lambda: np.split(received, np.cumsum(theirs)[:-1]), sent)

    def gather(self, payload: Payload, root: int, name: str) -> Pending[list[Payload]]:
        """Give every rank's payload to ``root``."""
        lengths = np.zeros(self.size, dtype=np.int64)
        self._finish(self._lane(name).Igather(np.array([len(payload)], dtype=np.int64), lengths, root), name)
        received = np.empty(int(lengths.sum()), dtype=np.uint8)
        request = self._lane(name).Igatherv(payload, [received, lengths, _starts(lengths), self._mpi.BYTE], root)
        parts = np.cumsum(lengths)[:-1]
        return self._pending(request, name, lambda: np.split(received, parts) if self.rank == root else [], payload)

    def broadcast(self, payload: Payload, root: int, name: str) -> Pending[Payload]:
        """Give the payload of ``root`` to every rank."""
        buffer = payload.copy()
        return self._pending(self._lane(name).Ibcast(buffer, root), name, lambda: buffer, buffer)

    def _pending(self, request: Any, name: str, collect: Callable[[], Result], kept_alive: Payload) -> Polled[Result]:
        # MPI reads the send buffer until the request completes; the closure keeps it alive.
        return Polled(
            ask=lambda: kept_alive is not None and bool(request.Test()),
            collect=collect,
            describe=f"rank {self.rank}: MPI collective {name!r}",
            timeout=self.timeout,
        )

    def _finish(self, request: Any, name: str) -> None:
        self._pending(request, name, lambda: None, np.empty(0, np.uint8)).wait()


def unusable(ranks: int) -> str:
    """Return why mpi4py cannot serve ``ranks`` ranks beside Horovod, or an empty string when it can.

    Under Gloo, mpi4py would initialise MPI as a world of one: nothing of MPI is touched before Horovod says that it
    runs on MPI itself.
    """
    hvd = backends.horovod()
    if not hvd.mpi_enabled():
        return "Horovod was not started with MPI"
    if not hvd.mpi_threads_supported():
        return "MPI was initialised without MPI_THREAD_MULTIPLE (is HOROVOD_MPI_THREADS_DISABLE set?)"
    if not backends.available("mpi4py"):
        return "mpi4py is not installed: pip install 'alq-hvd[mpi]'"
    world = backends.mpi().COMM_WORLD.Get_size()
    if world < ranks:
        return f"mpi4py sees {world} ranks, Horovod {ranks}: both must use the same MPI library"
    return ""


def _starts(lengths: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.concatenate([[0], np.cumsum(lengths)[:-1]])
