"""The real training example on 8 nodes with 4 ranks each, from sbatch to the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alq_hvd.run_record import read_run
from tests.cluster.slurm import Cluster
from tests.cluster.training_job import submit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_eight_nodes_of_four_gpus_train_to_the_end(cluster: Cluster, place: Path) -> None:
    """32 MPI ranks on whatever cores there are: a few steps, of which two fit the levels."""
    options = "--nodes 8 --gpus-per-node 4 --cpus-per-task 1"
    job = submit(cluster, place, options, "--batch-size 128 --epochs 1 --adapt-at 0 2")
    ended = job.wait_for("COMPLETED", seconds=800)
    assert (ended["NumNodes"], ended["NumTasks"], ended["ExitCode"]) == ("8", "32", "0:0")
    result = job.result()
    assert (result["world_size"], result["steps"]) == (32, 4)
    ranks = [json.loads((job.output / f"rank-{rank}.json").read_text()) for rank in range(32)]
    assert {rank["weights_sha256"] for rank in ranks} == {result["weights_sha256"]}
    assert {adaptation["version"] for adaptation in result["adaptations"]} == {1, 2}
    record = read_run(job.output).result
    assert record.document["exchange"] == "two_shot"
    assert {str(node["host"]) for node in record.nodes} == {f"n{number}" for number in range(1, 9)}
