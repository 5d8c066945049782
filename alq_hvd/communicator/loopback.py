"""N ranks as threads of one process: multi-rank logic without MPI, for tests and simulated worlds."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TypeVar

from alq_hvd.communicator.base import Payload, Pending
from alq_hvd.errors import AlqError, CommunicationTimeout
from alq_hvd.quantiser.config import require_int

Returned = TypeVar("Returned")


class LoopbackWorld:
    """Hold what the ranks of one simulated world share.

    Args:
        size: number of ranks.
        timeout: seconds a rank waits for the others before ``CommunicationTimeout``.
    """

    def __init__(self, size: int, timeout: float = 60.0) -> None:
        require_int("size", size, 1, 65536)
        self.size = size
        self.timeout = timeout
        self._changed = threading.Condition()
        self._slots: dict[tuple[str, int], _Slot] = {}
        self._failed: tuple[int, BaseException] | None = None

    def run(self, program: Callable[[LoopbackCommunicator], Returned]) -> list[Returned]:
        """Run ``program`` once a rank, each in a thread of its own, and return their results in rank order.

        Raises:
            BaseException: what the first failing rank raised; the others are told and stop.
        """
        results: list[Returned | None] = [None] * self.size

        def one_rank(rank: int) -> None:
            try:
                results[rank] = program(LoopbackCommunicator(self, rank))
            except BaseException as error:
                self._fail(rank, error)

        threads = [threading.Thread(target=one_rank, args=(rank,), daemon=True) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failed is not None:
            raise self._failed[1]
        return results  # type: ignore[return-value]

    def _fail(self, rank: int, error: BaseException) -> None:
        with self._changed:
            if self._failed is None:
                self._failed = (rank, error)
            self._changed.notify_all()

    def deposit(self, rank: int, occurrence: tuple[str, int], kind: str, payloads: Sequence[Payload]) -> None:
        """Lay down what ``rank`` sends: ``payloads[r]`` is for rank r."""
        with self._changed:
            slot = self._slots.setdefault(occurrence, _Slot(kind))
            if slot.kind != kind:
                raise AlqError(f"rank {rank} started {kind} under the name {occurrence[0]!r}, another rank {slot.kind}")
            slot.sent[rank] = list(payloads)
            if len(slot.sent) == self.size:
                self._changed.notify_all()

    def complete(self, occurrence: tuple[str, int]) -> bool:
        """Return whether every rank has deposited."""
        with self._changed:
            return len(self._slots[occurrence].sent) == self.size

    def collect(self, rank: int, occurrence: tuple[str, int]) -> list[Payload]:
        """Return what each rank sent to ``rank``, in rank order; forget the slot when every rank collected."""
        with self._changed:
            slot = self._slots[occurrence]
            self._changed.wait_for(lambda: len(slot.sent) == self.size or self._failed is not None, self.timeout)
            if len(slot.sent) < self.size:
                missing = sorted(set(range(self.size)) - set(slot.sent))
                cause = f"rank {self._failed[0]} failed" if self._failed else f"waited {self.timeout:g} s"
                raise CommunicationTimeout(
                    f"rank {rank}: {slot.kind} {occurrence[0]!r} needs ranks {missing}, which did not join ({cause})"
                )
            received = [slot.sent[sender][rank] for sender in range(self.size)]
            slot.collected += 1
            if slot.collected == self.size:
                del self._slots[occurrence]
            return received


@dataclass(slots=True)
class _Slot:
    kind: str
    sent: dict[int, list[Payload]] = field(default_factory=dict)
    collected: int = 0


@dataclass(slots=True)
class _Pending:
    world: LoopbackWorld
    rank: int
    occurrence: tuple[str, int]

    def done(self) -> bool:
        return self.world.complete(self.occurrence)

    def wait(self) -> list[Payload]:
        return self.world.collect(self.rank, self.occurrence)


@dataclass(slots=True)
class _Picked:
    """Deliver one payload of those a collective received."""

    pending: _Pending
    sender: int

    def done(self) -> bool:
        return self.pending.done()

    def wait(self) -> Payload:
        return self.pending.wait()[self.sender]


@dataclass(slots=True)
class _Rooted:
    """Deliver what a collective received on its root, and nothing elsewhere."""

    pending: _Pending
    root: int

    def done(self) -> bool:
        return self.pending.done()

    def wait(self) -> list[Payload]:
        received = self.pending.wait()
        return received if self.pending.rank == self.root else []


class LoopbackCommunicator:
    """One rank of a ``LoopbackWorld``; see ``Communicator``."""

    def __init__(self, world: LoopbackWorld, rank: int) -> None:
        self.world = world
        self.rank = rank
        self.size = world.size
        self._uses: defaultdict[str, int] = defaultdict(int)

    @property
    def tensors(self) -> LoopbackCommunicator:
        """Return what carries tensors: the same, for it looks at no byte."""
        return self

    def allgather(self, payload: Payload, name: str) -> Pending[list[Payload]]:
        """Give every rank's payload to every rank."""
        return self._start("allgather", name, [deepcopy(payload)] * self.size)

    def alltoall(self, payloads: Sequence[Payload], name: str, *, alike: bool = False) -> Pending[list[Payload]]:
        """Give ``payloads[r]`` to rank r."""
        return self._start("alltoall", name, [deepcopy(payload) for payload in payloads])

    def gather(self, payload: Payload, root: int, name: str) -> Pending[list[Payload]]:
        """Give every rank's payload to ``root``."""
        return _Rooted(self._start(f"gather to {root}", name, [payload.copy()] * self.size), root)

    def broadcast(self, payload: Payload, root: int, name: str) -> Pending[Payload]:
        """Give the payload of ``root`` to every rank."""
        return _Picked(self._start(f"broadcast from {root}", name, [payload.copy()] * self.size), root)

    def _start(self, kind: str, name: str, payloads: Sequence[Payload]) -> _Pending:
        occurrence = (name, self._uses[name])
        self._uses[name] += 1
        self.world.deposit(self.rank, occurrence, kind, payloads)
        return _Pending(self.world, self.rank, occurrence)
