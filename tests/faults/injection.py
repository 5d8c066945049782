"""One rank goes wrong at a chosen place of a training: what goes wrong there, and how the place is found."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

FRONT_ENDS = ("horovod", "mpi", "ddp", "fsdp", "plain", "plain-mpi")
"""Horovod over Gloo, Horovod over MPI, DDP and FSDP over Gloo, plain calls over Gloo and over MPI."""
PHASES = {
    "first agreement": (".options",),
    "who takes part": (".attendance", ".call"),
    "first shot": (".shot0",),
    "second shot": (".shot1",),
    "fit of levels": (".statistics",),
    "broadcast of levels": (".levels",),
    "checkpoint is saved": ("checkpoint.packed",),
    "checkpoint is restored": ("checkpoint.chief",),
    "shutdown": (),
}
"""Places, and parts of the names of the collectives there."""
FAULTS = ("killed", "exits", "raises", "memory", "stopped", "asleep", "late", "damages")
LAG = 1.5
"""Seconds by which a rank is late that lags."""


class Broken(RuntimeError):
    """Represent a mistake of the user's program on one rank."""


def go_wrong(fault: str) -> None:
    """Do to this process what ``fault`` says."""
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "exits":
        os._exit(1)
    if fault == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if fault == "asleep":
        time.sleep(3600)
    if fault == "late":
        time.sleep(LAG)
    # "damages" is done to the payload: see ``Injection._watched``
    if fault == "memory":
        raise MemoryError("no memory on one rank")
    if fault == "raises":
        raise Broken("of one rank's own")


class Injection:
    """Let this rank go wrong once, at the first collective of ``phase`` that it is about to start.

    Attributes:
        done: it has.
        armed: it may.
    """

    def __init__(self, phase: str, fault: str, *, armed: bool = True) -> None:
        self.phase, self.fault, self.armed, self.done = phase, fault, armed, False

    def at(self, name: str) -> bool:
        """Go wrong if ``name`` is that of a collective, or of a place, of the phase; return whether it was."""
        if self.armed and not self.done and (name == self.phase or any(part in name for part in PHASES[self.phase])):
            self.done = True
            print(f"injected: {self.fault} at {self.phase} ({name})", file=sys.stderr, flush=True)
            go_wrong(self.fault)
            return True
        return False

    def watch(self, communicators: list[type], transports: list[type]) -> None:
        """Look at every collective that these classes start."""
        for kind in communicators:
            for method in ("allgather", "alltoall", "gather", "broadcast"):
                setattr(kind, method, self._watched(getattr(kind, method)))
        for kind in transports:
            kind.attendance = self._watched(kind.attendance)  # type: ignore[attr-defined]

    def _watched(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def started(own: Any, *args: Any, **more: Any) -> Any:
            name = next(str(each) for each in (*more.values(), *reversed(args)) if isinstance(each, str))
            if self.at(name) and self.fault == "damages":
                args = (damaged(args[0]), *args[1:])
            return original(own, *args, **more)

        return started


def damaged(payload: Any) -> Any:
    """Return bytes, or those for each rank, in which the last one is another."""
    if isinstance(payload, list):
        return [damaged(each) for each in payload]
    other = payload.copy()
    other[-1:] ^= 0x40
    return other
