"""Rendered jobs on a real Slurm: they train, stop, go back into the queue and end like a run that was never cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.hosts import run, wait_until
from tests.cluster.slurm import Cluster
from tests.cluster.training_job import sbatch, submit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

FOUR_RANKS = "--nodes 2 --gpus-per-node 2 --cpus-per-task 1"
LONG = "--batch-size 16 --epochs 4"
"""128 steps: enough to be stopped in the middle, a few seconds to finish."""


def test_four_nodes_of_four_gpus_train_to_the_end(cluster: Cluster, place: Path) -> None:
    job = submit(cluster, place, "--nodes 4 --gpus-per-node 4 --cpus-per-task 1", "--batch-size 64 --epochs 1")
    ended = job.wait_for("COMPLETED", seconds=600)
    assert (ended["NumNodes"], ended["NumTasks"], ended["ExitCode"]) == ("4", "16", "0:0")
    result = job.result()
    assert (result["world_size"], result["steps"]) == (16, 8)
    ranks = [json.loads((job.output / f"rank-{rank}.json").read_text()) for rank in range(16)]
    assert {rank["weights_sha256"] for rank in ranks} == {result["weights_sha256"]}


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_a_signal_sends_it_back_into_the_queue_and_it_ends_as_if_nothing_had_been(
    launcher: str, cluster: Cluster, place: Path
) -> None:
    uncut = submit(cluster, place, FOUR_RANKS, LONG, name="uncut")
    job = submit(cluster, place, f"{FOUR_RANKS} --launcher {launcher}", LONG)
    job.wait_for_step(3)
    # What Slurm does before the time limit: to the ranks (srun), or to the batch script (mpirun).
    to_script = ["--batch"] if launcher == "mpirun" else []
    cluster.on_head("scancel", "--signal=USR1", *to_script, str(job.number))
    ended = job.wait_for("COMPLETED", seconds=600)
    assert ended["Restarts"] == "1"
    result = job.result()
    assert len(result["resumed"]) == 1
    assert 3 <= result["resumed"][0] < result["steps"] == 128
    assert "stopped with a checkpoint; back into the queue" in job.log()
    uncut.wait_for("COMPLETED", seconds=600)
    whole = uncut.result()
    assert whole["resumed"] == []
    for name in ("weights_sha256", "accuracy", "adaptations", "bytes_per_step"):
        assert result[name] == whole[name], name


def test_a_cancelled_job_keeps_a_checkpoint_and_stays_away(cluster: Cluster, place: Path) -> None:
    job = submit(cluster, place, FOUR_RANKS, LONG)
    job.wait_for_step(6)
    cluster.on_head("scancel", str(job.number))
    ended = job.wait_for("CANCELLED", seconds=60)
    assert ended["Restarts"] == "0"
    stopped = job.events("step")[-1]["step"]
    assert job.checkpoint_steps()[-1] == stopped


def test_restarts_are_counted(cluster: Cluster, place: Path) -> None:
    job = submit(cluster, place, f"{FOUR_RANKS} --restarts 0", LONG)
    job.wait_for_step(1)
    cluster.on_head("scancel", "--signal=USR1", str(job.number))
    ended = job.wait_for("FAILED", seconds=120)
    assert (ended["Restarts"], ended["ExitCode"]) == ("0", "75:0")


def test_slurm_itself_signals_before_the_time_limit(cluster: Cluster, place: Path) -> None:
    # Slurm counts in minutes: of two, the signal comes somewhere in the first.
    job = submit(cluster, place, f"{FOUR_RANKS} --time 00:02:00 --signal-seconds 60", "--batch-size 16 --epochs 1000")
    wait_until("the job is requeued", lambda: cluster.job(job.number)["Restarts"] == "1", 240, 0.5)
    assert "stopped with a checkpoint; back into the queue" in job.log()
    cluster.on_head("scancel", str(job.number))
    assert job.checkpoint_steps()[-1] == job.events("step")[-1]["step"]


def test_a_rank_that_dies_ends_the_job(cluster: Cluster, place: Path) -> None:
    job = submit(cluster, place, FOUR_RANKS, "--batch-size 16 --epochs 1000")
    job.wait_for_step(2)
    assert cluster.hosts is not None
    find = cluster.hosts.on(
        cluster.nodes_of(job.number)[-1], "pgrep", "-f", f"python examples/train_images.py.*{place}"
    )
    rank = run(find).split()[-1]
    run(cluster.hosts.on(cluster.nodes_of(job.number)[-1], "kill", "-9", rank))
    ended = job.wait_for("FAILED", seconds=180)
    assert ended["Restarts"] == "0"


def test_a_node_that_dies_costs_the_steps_since_the_last_checkpoint(cluster: Cluster, place: Path) -> None:
    uncut = submit(cluster, place, FOUR_RANKS, LONG, name="uncut")
    uncut.wait_for("COMPLETED", seconds=600)
    job = submit(cluster, place, FOUR_RANKS, LONG)
    job.wait_for_step(8)
    node = cluster.nodes_of(job.number)[-1]
    cluster.crash(node)
    try:
        ended = job.wait_for("COMPLETED", seconds=600)
    finally:
        cluster.restart_host(node)
    assert node not in cluster.nodes_of(job.number)
    assert ended["Restarts"] == "1"
    result, whole = job.result(), uncut.result()
    assert result["resumed"] and result["resumed"][0] % 5 == 0
    assert result["weights_sha256"] == whole["weights_sha256"]
    assert result["accuracy"] == whole["accuracy"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--partition", "night"], "invalid partition specified: night"),
        (["--nodes", "9"], "More processors requested|Node count specification invalid|Requested node configuration"),
        (["--gpus-per-node", "5"], "Requested node configuration is not available"),
        (["--gpus-per-node", "4", "--cpus-per-task", "8"], "Requested node configuration is not available"),
        (["--account", "a b"], "account: expected a word without spaces"),
    ],
)
def test_what_slurm_refuses_is_told_in_one_line(options: list[str], reason: str, cluster: Cluster) -> None:
    printed = sbatch(cluster, *options)
    assert printed.startswith("alq-hvd sbatch: ")
    assert any(each in printed for each in reason.split("|")), printed
