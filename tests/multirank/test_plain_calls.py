"""The examples of plain calls, as they stand: outer gradients over torch.distributed, an MPI program in NumPy."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launch import environment

pytestmark = [pytest.mark.multirank, pytest.mark.timeout(310)]
ROOT = Path(__file__).parents[2]


def losses_and_bytes(*command: str) -> list[tuple[float, int]]:
    """Run an example, and return what it prints."""
    run = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
    )
    assert run.returncode == 0, run.stderr[-4000:]
    printed = re.findall(r"loss (\S+), sent ([\d,]+) bytes", run.stdout)
    return [(float(loss), int(sent.replace(",", ""))) for loss, sent in printed]


def test_outer_gradients_train_with_an_eighth_of_the_bytes() -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    printed = losses_and_bytes(*start, "--nproc-per-node=4", "examples/outer_gradients.py")
    assert len(printed) == 15
    assert printed[-1][0] < 0.3 < 1 < printed[0][0]
    elements = 64 * 256 + 256 + 256 * 10 + 10
    assert printed[-1][1] < 4 * elements * 3 / 7  # an all-gather gives the record to three others


def test_a_program_of_mpi_needs_no_torch_distributed() -> None:
    mpirun = shutil.which("mpirun")
    assert mpirun, "make setup installs MPI"
    flags = ["--allow-run-as-root", "--oversubscribe"]
    printed = losses_and_bytes(mpirun, *flags, "-np", "4", sys.executable, "examples/mpi_allreduce.py")
    assert [loss < 1e-3 for loss, _ in printed] == [True] * 5
    assert printed[-1][1] < 4 * 512 * 8 * 3 / 6
