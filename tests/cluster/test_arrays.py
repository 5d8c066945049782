"""A job array: each task trains by itself, in a directory of its own, and is stopped and requeued by itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.hosts import wait_until
from tests.cluster.slurm import Cluster
from tests.cluster.training_job import submit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

TASKS = (1, 2, 4)


def tasks_of(cluster: Cluster, array: int) -> dict[int, Mapping[str, str]]:
    """Return what Slurm says of each task that has become a job of its own, by index."""
    lines = cluster.on_head("scontrol", "show", "job", "-o", str(array)).splitlines()
    found = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
    return {int(task["ArrayTaskId"]): task for task in found if task.get("ArrayTaskId", "").isdigit()}


def test_only_the_task_that_is_stopped_goes_back_into_the_queue(cluster: Cluster, place: Path) -> None:
    """The task in question bears the number of the whole array, which is what could be requeued in its place."""
    options = "--nodes 1 --gpus-per-node 2 --cpus-per-task 1 --array 1-2,4"
    array = submit(cluster, place, options, "--seed %a --batch-size 16 --epochs 4", name="seed-%a")

    def all_run() -> bool:
        return set(tasks_of(cluster, array.number)) == set(TASKS)

    wait_until("all tasks are jobs", all_run, 120, 0.5)
    tasks = tasks_of(cluster, array.number)
    (index,) = [index for index, task in tasks.items() if task["JobId"] == str(array.number)]
    runs = {
        number: replace(array, number=int(task["JobId"]), output=place / f"seed-{number}")
        for number, task in tasks.items()
    }

    def third_step() -> bool:
        return any(event["step"] >= 3 for event in runs[index].events("step"))

    wait_until("step 3 of the task", third_step, 300, 0.05)
    cluster.on_head("scancel", "--signal=USR1", f"{array.number}_{index}")

    def all_complete() -> bool:
        states = [task["JobState"] for task in tasks_of(cluster, array.number).values()]
        assert not {"FAILED", "CANCELLED"} & set(states), states
        return states == ["COMPLETED"] * len(TASKS)

    wait_until("all tasks are complete", all_complete, 600, 0.5)
    tasks = tasks_of(cluster, array.number)
    assert {number: task["Restarts"] for number, task in tasks.items()} == {
        number: str(int(number == index)) for number in TASKS
    }
    results = {number: run.result() for number, run in runs.items()}
    assert all((result["steps"], result["seed"]) == (128, number) for number, result in results.items())
    assert {number: len(result["resumed"]) for number, result in results.items()} == {
        number: int(number == index) for number in TASKS
    }
    assert len({result["weights_sha256"] for result in results.values()}) == len(TASKS)  # other seeds, other weights
    log = "\n".join(path.read_text() for path in place.glob("*.out"))
    assert re.findall(r"job (\S+): stopped with a checkpoint; back into the queue", log) == [f"{array.number}_{index}"]
