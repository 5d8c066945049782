"""Start a program on several ranks with horovodrun or torchrun, follow it, and never leave a rank behind."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

ENVIRONMENT = {
    # More ranks than cores is the normal case on a laptop: one thread a rank, and no rank spins while waiting.
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "OMPI_MCA_mpi_yield_when_idle": "1",
}
"""Set for the ranks unless the user's environment says otherwise."""

FRONT_ENDS = ("horovod", "ddp")
"""Each is started in its own way."""
POLL_SECONDS = 0.3
GRACE_SECONDS = 15.0
_TAG = re.compile(r"\[1,(\d+)\]<std(?:out|err)>:")
"""How mpirun marks whose output follows: at the start of a line, and wherever a rank's write was not a whole line."""


class LaunchError(Exception):
    """A run could not start, failed or took too long; the message holds the end of what it printed."""


def find_horovodrun() -> Path:
    """Return the horovodrun that belongs to this Python.

    Raises:
        LaunchError: when Horovod is not installed here, with what to do.
    """
    path = Path(sys.executable).parent / "horovodrun"
    if importlib.util.find_spec("horovod") is None or not path.exists():
        raise LaunchError(
            f"expected Horovod in the Python at {sys.prefix}, found none: "
            "run 'make setup' and start this program with .venv/bin/python, or simply 'make demo'"
        )
    return path


def launcher(front_end: str, ranks: int) -> list[str]:
    """Return the command before a Python program and its arguments that starts ``ranks`` ranks of this machine.

    Raises:
        LaunchError: when it is not installed here.
    """
    if front_end == "horovod":
        return [str(find_horovodrun()), "-np", str(ranks), sys.executable]
    if importlib.util.find_spec("torch") is None:
        raise LaunchError(f"expected PyTorch in the Python at {sys.prefix}, found none: pip install '.[torch,demo]'")
    # What torchrun is, by an address that needs no name service.
    options = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={ranks}"]
    return [sys.executable, "-m", "torch.distributed.run", *options]


def run_on_ranks(
    ranks: int,
    program: Sequence[str],
    log: Path,
    timeout: float,
    poll: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda line: None,
    front_end: str = "horovod",
) -> None:
    """Run ``python program...`` on ``ranks`` ranks of this machine and wait for it.

    Args:
        ranks: number of processes; more than cores is fine.
        program: path of a Python program and its arguments.
        log: file that receives everything the ranks print.
        timeout: seconds after which all ranks are stopped.
        poll: called a few times a second while the program runs.
        say: called with each line that rank 0 prints; under torchrun, which does not tell whose it is, with each line.
        front_end: one of ``FRONT_ENDS``.

    Raises:
        LaunchError: when the program fails or exceeds ``timeout``. Whatever ends this function, Ctrl-C included,
            no process it started is left.
    """
    command = [*launcher(front_end, ranks), *program]
    last: deque[str] = deque(maxlen=30)
    log.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        command,
        env=ENVIRONMENT | dict(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C then reaches this program alone, which stops the ranks in order
    )
    pump = threading.Thread(target=_pump, args=(process, log, last, say, front_end == "horovod"), daemon=True)
    pump.start()
    deadline = time.monotonic() + timeout
    try:
        while process.poll() is None:
            if time.monotonic() > deadline:
                stop(process)
                raise LaunchError(f"{_name(command)}: stopped after {timeout:.0f} s{_ending(log, last)}")
            poll()
            time.sleep(POLL_SECONDS)
    finally:
        stop(process)
        pump.join(timeout=GRACE_SECONDS)
    poll()
    if process.returncode != 0:
        raise LaunchError(f"{_name(command)}: ended with status {process.returncode}{_ending(log, last)}")


def stop(process: subprocess.Popen[str]) -> None:
    """Stop ``process`` and everything below it: first politely, then, after a while, for good."""
    if process.poll() is not None:
        return
    import psutil  # comes with Horovod, and with the extra 'demo'

    # Listed first: once horovodrun is gone, its ranks could not be found any more. psutil compares start times, so a
    # number that was reused by a stranger is left alone.
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for signal_all in (psutil.Process.terminate, psutil.Process.kill):
        for member in family:
            try:
                signal_all(member)
            except psutil.NoSuchProcess:
                continue
        _, family = psutil.wait_procs(family, timeout=GRACE_SECONDS)
    process.wait(GRACE_SECONDS)


def _pump(
    process: subprocess.Popen[str], log: Path, last: deque[str], say: Callable[[str], None], tagged: bool
) -> None:
    if process.stdout is None:
        return
    with process.stdout, log.open("w", encoding="utf-8") as file:
        for line in process.stdout:
            file.write(line)
            file.flush()
            tag = _TAG.match(line)
            text = _TAG.sub("", line).rstrip()
            if text:
                last.append(text)
            if text and (not tagged or (tag is not None and tag[1] == "0")):
                say(text)


def _name(command: Sequence[str]) -> str:
    return " ".join(Path(word).name if word.startswith("/") else word for word in command)


def _ending(log: Path, last: deque[str]) -> str:
    return f"; the end of {log}:\n  " + "\n  ".join(last) if last else f"; it printed nothing (see {log})"
