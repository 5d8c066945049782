"""Stop in time, and all ranks after the same step: a signal to any rank becomes an answer on all of them."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

import numpy as np

from alq_hvd import backends
from alq_hvd.checkpoint.workers import SIGNALS, guard_begins, guard_ends
from alq_hvd.communicator.base import Communicator, Payload, Pending
from alq_hvd.communicator.horovod import HorovodCommunicator

PREEMPTED_STATUS = 75
"""Exit status of a program that stopped on a signal and can be started again: BSD's EX_TEMPFAIL. Batch scripts made by
``alq-hvd sbatch`` requeue the job on it."""


class PreemptionGuard:
    """Turn signals into a decision that all ranks take at the same step boundary.

    Use it as a context manager around the training loop, from before the first long work, in the main thread::

        with PreemptionGuard() as guard:
            for step in ...:
                ...
                if guard.stop_agreed():
                    checkpoint.save(step, position)
                    sys.exit(PREEMPTED_STATUS)

    Processes that are started inside behave as if there were no guard, with one exception: of these signals they take
    what their parent sends, and leave to the rank what is sent to the whole job (``checkpoint.workers``).

    All ranks must agree on: how often ``stop_agreed`` is called.

    Args:
        signals: those that ask to stop.
        communicator: carries the question; Horovod, made at the first use, when ``None``.
        name: of the collective.
    """

    def __init__(
        self,
        signals: Sequence[signal.Signals] = SIGNALS,
        communicator: Communicator | None = None,
        name: str = "alq_hvd.preemption",
    ) -> None:
        self._signals = tuple(signals)
        self._communicator = communicator
        self._name = name
        self._before: dict[signal.Signals, Any] = {}
        self._question: Pending[list[Payload]] | None = None
        self._world: object = None  # that the question was asked in
        self.received: signal.Signals | None = None

    def __enter__(self) -> PreemptionGuard:
        for number in self._signals:
            self._before[number] = signal.signal(number, self._note)
            # Interrupted system calls of MPI's and Horovod's threads go on instead of failing.
            signal.siginterrupt(number, False)
        guard_begins(self._before)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        guard_ends(self._before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None and self._question is not None and not self._horovod_is_down():
            self._question.wait()
        self._question = None

    def stop_agreed(self) -> bool:
        """Return whether all ranks stop here; call it at every step boundary.

        1. Wait for the answer to the question asked at the previous boundary, which travelled beside this step's
        gradients and so costs no time. 2. If no rank wants to stop, ask again. A signal is thus answered within two
        steps.
        """
        if self._communicator is None:
            self._communicator = HorovodCommunicator()
        if self._communicator.world is not self._world:  # elastic Horovod: no rank is left to answer
            self._question, self._world = None, self._communicator.world
        if self._communicator.size == 1:
            return self.received is not None
        stop = self._question is not None and any(flag[0] for flag in self._question.wait())
        self._question = None if stop else self._ask(self._communicator)
        return stop

    def _horovod_is_down(self) -> bool:
        """Return whether the program has called ``hvd.shutdown()`` already, which leaves nothing to wait for."""
        return isinstance(self._communicator, HorovodCommunicator) and not backends.horovod().is_initialized()

    def _ask(self, communicator: Communicator) -> Pending[list[Payload]]:
        flag = np.array([self.received is not None], dtype=np.uint8)
        return communicator.allgather(flag, self._name)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
