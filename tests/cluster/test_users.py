"""A user who is not root trains: submits, stops, is requeued and goes on, with files that are the user's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster
from tests.cluster.test_bring_up import NOBODY
from tests.cluster.training_job import submit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_a_users_training_is_stopped_requeued_and_ends(cluster: Cluster, place: Path) -> None:
    os.chown(place, NOBODY, NOBODY)
    place.chmod(0o755)
    options = "--nodes 2 --gpus-per-node 1 --cpus-per-task 1"
    job = submit(cluster, place, options, "--batch-size 16 --epochs 4", user=NOBODY)
    assert cluster.job(job.number)["UserId"].endswith(f"({NOBODY})")
    job.wait_for_step(3)
    cluster.on_head("scancel", "--signal=USR1", str(job.number), user=NOBODY)
    ended = job.wait_for("COMPLETED", seconds=600)
    assert ended["Restarts"] == "1"
    result = job.result()
    assert result["steps"] == 128
    assert len(result["resumed"]) == 1
    assert "stopped with a checkpoint; back into the queue" in job.log()
    files = [path for path in place.rglob("*") if path.is_file()]
    assert {path.stat().st_uid for path in files} == {NOBODY}
    assert job.checkpoint_steps()
    assert not [path for path in files if path.suffix in (".tmp", ".damaged")]
