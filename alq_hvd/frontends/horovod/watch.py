"""Ends what Horovod would wait for without end: a step to which another rank never comes.

Between ``compress`` and ``decompress`` the optimizer waits inside Horovod, where nothing of this package is called, and
Horovod waits for a rank that sleeps or is stopped as long as it takes.

A thread watches. When a step takes longer than half of a compression's timeout, it sees by the frames of the other
threads whether one of them stays in one call of ``hvd.synchronize``. Once the time is over, it says so, and shuts
Horovod down, so that the call ends in the error with which Horovod tells of lost ranks. Where that does not help,
because Horovod's own thread waits as well, the process ends.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import time
import weakref
from types import FrameType
from typing import Any, Protocol

from alq_hvd import backends
from alq_hvd.communicator import leaving

GRACE = 15.0
"""Seconds that Horovod gets to end its waiting itself, before the process is ended."""
_LONGEST_NAP = 5.0
_logger = logging.getLogger(__name__)


class Watched(Protocol):
    """A compression, as the thread sees it."""

    @property
    def open_step(self) -> tuple[int, int] | None:
        """Return rank and step while gradients are with Horovod, else ``None``."""
        ...

    @property
    def timeout(self) -> float:
        """Return how many seconds another rank may be late."""
        ...


class Watch:
    """Look on from a thread of its own; one a process."""

    def __init__(self) -> None:
        self._watched: weakref.WeakSet[Any] = weakref.WeakSet()
        self._steps: weakref.WeakKeyDictionary[Any, tuple[Any, float]] = weakref.WeakKeyDictionary()  # and their begin
        self._waits: dict[int, tuple[FrameType, float]] = {}  # by thread: a call of synchronize, and when it was seen
        self._thread: threading.Thread | None = None

    def add(self, compression: Watched) -> None:
        """Look on ``compression`` from now on; call it in every world, after ``hvd.init()``."""
        self._watched.add(compression)
        leaving.in_time()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._look_on, name="alq_hvd watch", daemon=True)
            self._thread.start()

    def _look_on(self) -> None:
        waiting = backends.horovod().mpi_ops.synchronize.__code__
        while True:
            time.sleep(min([_LONGEST_NAP, *(each.timeout / 10 for each in list(self._watched))]))
            self._look(waiting, time.monotonic())

    def _look(self, call: Any, now: float) -> None:
        """Look once at what takes too long; ``call`` is the code object of ``hvd.synchronize``."""
        slow = [each for each in list(self._watched) if self._open_for(each, now) > each.timeout / 2]
        self._see(call if slow else None, now)
        if self._waits:
            waited = now - min(since for _, since in self._waits.values())
            late = [each for each in slow if self._open_for(each, now) > each.timeout < 2 * waited]
            if late:
                self._end_wait(late[0])

    def _open_for(self, compression: Watched, now: float) -> float:
        """Return for how long the open step has been seen; 0 when none is open."""
        step = compression.open_step
        if step is None or self._steps.get(compression, (None, 0.0))[0] != step:
            self._steps[compression] = (step, now)
        return now - self._steps[compression][1]

    def _see(self, call: Any, now: float) -> None:
        """Note which threads are in ``call``, a code object, and for how long they have been seen there."""
        seen, self._waits = self._waits, {}
        for thread, frame in _frames() if call is not None else ():
            if frame.f_code is call:
                known = seen.get(thread, (None, now))
                self._waits[thread] = (frame, known[1] if known[0] is frame else now)

    def _end_wait(self, late: Watched) -> None:
        """Say what is waited for, and end the wait, or else this process."""
        rank, step = late.open_step or (-1, -1)
        _logger.error(
            "CommunicationTimeout: rank %d, step %d: expected every rank to hand over its gradients, but one has not "
            "for %g s. It died, hangs, or left the loop early: look at the other ranks' logs; raise `timeout` if it "
            "was only slow. Horovod is shut down now on all ranks",
            rank, step, late.timeout,
        )  # fmt: skip
        threading.Thread(target=backends.horovod().mpi_ops._basics.shutdown, daemon=True).start()
        end = time.monotonic() + GRACE
        while time.monotonic() < end:
            time.sleep(0.05)
            if not any(frame is now for _, now in _frames() for frame, _ in self._waits.values()):
                return
        _logger.error("Horovod still waits for the silent rank after %g s more: this process exits", GRACE)
        sys.stderr.flush()
        os._exit(1)


def _frames() -> list[tuple[int, FrameType]]:
    """Return the frame that each other thread is in; Python before 3.11.5 may not collect garbage meanwhile."""
    enabled, own = gc.isenabled(), threading.get_ident()
    gc.disable()
    try:
        return [(thread, frame) for thread, frame in sys._current_frames().items() if thread != own]
    finally:
        if enabled:
            gc.enable()


WATCH = Watch()
