"""Who waits inside Horovod for longer than a compression allows is told so, and got out of there."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from alq_hvd import backends
from alq_hvd.frontends.horovod import watch

ROOT = Path(__file__).parents[2]


class Horovod:
    """Represent Horovod: a call of ``synchronize`` ends when it is shut down."""

    def __init__(self) -> None:
        self.down = threading.Event()
        down = self.down

        def synchronize() -> None:
            while not down.is_set():
                time.sleep(0.01)

        basics = SimpleNamespace(shutdown=down.set)
        self.mpi_ops = SimpleNamespace(synchronize=synchronize, _basics=basics)


class Compression:
    def __init__(self, open_step: tuple[int, int] | None, timeout: float) -> None:
        self.open_step, self.timeout = open_step, timeout


@pytest.fixture
def horovod(monkeypatch: pytest.MonkeyPatch) -> Horovod:
    stand_in = Horovod()
    monkeypatch.setattr(backends, "horovod", lambda: stand_in)
    return stand_in


def test_a_wait_without_end_is_said_and_ended(horovod: Horovod, caplog: pytest.LogCaptureFixture) -> None:
    compression = Compression((2, 41), 0.2)
    watch.Watch().add(compression)
    with caplog.at_level(logging.ERROR):
        waiting = threading.Thread(target=horovod.mpi_ops.synchronize, daemon=True)
        waiting.start()
        waiting.join(60)
    assert not waiting.is_alive()
    assert "rank 2, step 41: expected every rank to hand over its gradients, but one has not for 0.2 s" in caplog.text


def test_who_waits_between_steps_or_has_time_is_left_alone(horovod: Horovod) -> None:
    """Only the gradients of a compression have its timeout; other collectives are the program's own."""
    looking, others = watch.Watch(), [Compression(None, 0.1), Compression((0, 1), 3600)]
    for compression in others:
        looking.add(compression)
    waiting = threading.Thread(target=horovod.mpi_ops.synchronize, daemon=True)
    waiting.start()
    waiting.join(1)
    assert waiting.is_alive()
    horovod.down.set()


def test_a_process_that_can_not_leave_horovod_ends() -> None:
    """Neither from a call that shutting down does not end, nor from a shutdown at exit that waits."""
    stuck = """
        import atexit, sys, time
        from types import SimpleNamespace
        from alq_hvd import backends
        from alq_hvd.communicator import leaving
        from alq_hvd.frontends.horovod import watch

        def synchronize():
            while True:
                time.sleep(0.01)

        def shutdown():
            while True:
                time.sleep(0.01)

        atexit.register(shutdown)
        mpi_ops = SimpleNamespace(synchronize=synchronize, _basics=SimpleNamespace(shutdown=shutdown))
        backends.horovod = lambda: SimpleNamespace(mpi_ops=mpi_ops)
        watch.GRACE = leaving.GRACE = 0.3
        class Compression:
            open_step, timeout = (1, 5), 0.2

        kept = Compression()
        watch.WATCH.add(kept)
        if sys.argv[1] == "wait":
            mpi_ops.synchronize()
        raise RuntimeError("of the program")
    """
    for place, text in (("wait", "still waits for the silent rank"), ("exit", "in shutdown")):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(stuck), place], cwd=ROOT, capture_output=True, text=True, timeout=90,
            check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert text in done.stderr


def test_a_process_that_waits_after_the_end_of_the_interpreter_ends_as_well() -> None:
    """As mpi4py's does, in MPI_Finalize, for a rank that does not answer."""
    stuck = """
        import ctypes
        from alq_hvd.communicator import leaving
        from alq_hvd.communicator.base import timed_out

        leaving.GRACE = leaving._LATER = 0.3
        pause = ctypes.cast(ctypes.CDLL(None).pause, ctypes.c_void_p)
        assert ctypes.pythonapi.Py_AtExit(pause) == 0
        raise timed_out("a collective", 1.0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(stuck)], cwd=ROOT, capture_output=True, text=True, timeout=90,
        check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == -signal.SIGALRM, done.stderr
    assert "CommunicationTimeout: a collective" in done.stderr
