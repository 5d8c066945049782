"""Slurm's signals reach the processes that load data, too: they never cost the checkpoint."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.cluster.hosts import wait_until
from tests.cluster.slurm import ROOT, Cluster
from tests.cluster.training_job import sbatch

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

PROGRAM = str(ROOT / "tests" / "cluster" / "loading_program.py")


def test_a_signal_and_a_cancellation_leave_a_checkpoint_though_every_worker_gets_them(
    cluster: Cluster, place: Path
) -> None:
    options = f"--nodes 2 --gpus-per-node 1 --cpus-per-task 2 --venv {sys.prefix} --log {place}/log"
    printed = sbatch(cluster, *shlex.split(options), "--", "python", PROGRAM, str(place), "100000")
    match = re.fullmatch(r"Submitted batch job (\d+)", printed.strip())
    assert match, printed
    number, step = int(match[1]), place / "step"

    def reached(goal: int) -> bool:
        return step.exists() and int(step.read_text() or 0) >= goal

    checkpoints = place / "checkpoints"
    try:
        wait_until("10 steps", lambda: reached(10), 200)
        cluster.on_head("scancel", "--signal=USR1", str(number))
        wait_until("the job is requeued", lambda: cluster.job(number)["Restarts"] == "1", 60)
        (first,) = checkpoints.glob("*.ckpt")
        stopped = int(re.findall(r"\d+", first.name)[0])
        wait_until("it goes on", lambda: reached(stopped + 10), 200)
        cluster.on_head("scancel", str(number))
        cluster.wait_for(number, "CANCELLED", seconds=60)
    except BaseException:
        print((place / "log").read_text())
        raise
    kept = sorted(int(re.findall(r"\d+", path.name)[0]) for path in checkpoints.glob("*.ckpt"))
    assert kept == [stopped, int(step.read_text())]
