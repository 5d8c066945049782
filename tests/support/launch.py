"""Start real ranks with horovodrun, collect what they print as JSON, and never wait forever."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_TAG = re.compile(r"(\[(?:1,)?\d+\]<std(?:out|err)>):")
"""How mpirun and horovodrun mark whose output follows."""

PROGRAMS = Path(__file__).parents[1] / "multirank" / "programs"


class RanksFailed(AssertionError):
    """A launched program ended with an error; the text holds its output."""


def environment() -> dict[str, str]:
    """Return the environment for ranks that share few cores."""
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "OMPI_MCA_mpi_yield_when_idle": "1"}
    bin_directory = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "")
    return {**os.environ, **quiet, "PATH": f"{bin_directory}:{path}", "PYTHONUNBUFFERED": "1"}


def horovodrun(
    ranks: int, program: str, *arguments: str, gloo: bool = False, timeout: float = 200, check: bool = True
) -> tuple[list[Any], str]:
    """Run ``programs/<program>`` on ``ranks`` ranks.

    Returns:
        What each rank wrote to the file it was given, in rank order (``None`` where it wrote nothing), and all output,
        one rank after the other.

    Raises:
        RanksFailed: when the program fails, or is not done after ``timeout`` seconds.
    """
    launcher = str(Path(sys.executable).parent / "horovodrun")
    command = [launcher, "-np", str(ranks), *(["--gloo"] if gloo else []), sys.executable, str(PROGRAMS / program)]
    return run_ranks(command, ranks, *arguments, timeout=timeout, check=check)


def torchrun(
    ranks: int, program: str, *arguments: str, timeout: float = 200, check: bool = True
) -> tuple[list[Any], str]:
    """Run ``programs/<program>`` on ``ranks`` ranks of torch.distributed on this host; see ``horovodrun``."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command = [*start, f"--nproc-per-node={ranks}", str(PROGRAMS / program)]
    return run_ranks(command, ranks, *arguments, timeout=timeout, check=check)


def run_ranks(command: list[str], ranks: int, *arguments: str, timeout: float, check: bool) -> tuple[list[Any], str]:
    """Run ``command`` with a fresh directory for results as its first argument; see ``horovodrun``."""
    with tempfile.TemporaryDirectory() as results:
        process = subprocess.Popen(
            [*command, results, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment(),
            cwd=Path(__file__).parents[2],
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            raise RanksFailed(f"not done after {timeout:g} s:\n{output[-6000:]}") from None
        output = one_rank_after_the_other(output)
        if check and process.returncode != 0:
            raise RanksFailed(f"exit code {process.returncode}:\n{output[-6000:]}")
        files = [Path(results) / f"{rank}.json" for rank in range(ranks)]
        return [json.loads(file.read_text()) if file.exists() else None for file in files], output


def one_rank_after_the_other(output: str) -> str:
    """Return what each rank printed in one piece and without tags, after what the launcher said itself.

    mpirun passes on every write as it comes, with a tag in front. A line that a rank wrote in several pieces, as Python
    writes its tracebacks, has tags in its middle, and may have another rank's writes there.
    """
    streams = {"": ""}
    for line in output.splitlines(keepends=True):
        launcher, *tagged = _TAG.split(line)
        streams[""] += launcher
        for tag, text in zip(tagged[::2], tagged[1::2], strict=True):
            streams[tag] = streams.get(tag, "") + text
    return "".join(streams.values())
