"""A scaling study on a real Slurm: every size and method, a stop in the middle, and the page at the end."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from alq_hvd.run_record import read_run
from tests.cluster.hosts import wait_until
from tests.cluster.slurm import Cluster
from tests.cluster.training_job import START_SECONDS, TINY, TrainingJob, sbatch
from tests.unit.test_report import Page

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

METHODS = {"fp32": "fp32", "fp16": "fp16", "alq": "alq 3 bits"}
SIZES = (1, 2, 4)


def test_one_two_and_four_nodes_become_a_page_whatever_stops_the_job(cluster: Cluster, place: Path) -> None:
    runs = place / "runs"
    words = ["--scaling", "--nodes", "4", "--gpus-per-node", "1", "--cpus-per-task", "1", "--venv", sys.prefix]
    words += ["--log", str(place / "%j.out"), "--runs", str(runs), "--", "python", "examples/train_images.py"]
    words += ["--output=%r", "--checkpoint=%r/checkpoints", *shlex.split(f"{TINY} --batch-size 32 --epochs 4")]
    match = re.fullmatch(r"Submitted batch job (\d+)", sbatch(cluster, *words).strip())
    assert match
    number = int(match[1])
    first = TrainingJob(cluster, number, runs / "fp16-1", runs / "fp16-1" / "checkpoints")

    def first_complete() -> bool:
        assert cluster.job(number)["JobState"] in ("PENDING", "RUNNING"), first.log()
        return (runs / "fp32-1" / "result.json").exists()

    wait_until("the first training ends", first_complete, START_SECONDS)
    first.wait_for_step(2)
    complete = (runs / "fp32-1" / "result.json").stat().st_mtime_ns
    cluster.on_head("scancel", "--signal=USR1", str(number))
    ended = cluster.wait_for(number, "COMPLETED", seconds=1200)

    assert ended["Restarts"] == "1"
    assert (runs / "fp32-1" / "result.json").stat().st_mtime_ns == complete
    page = Page((runs / "scaling.html").read_text())
    hosts: dict[int, set[str]] = {}
    for method, name in METHODS.items():
        for nodes in SIZES:
            result = read_run(runs / f"{method}-{nodes}").result
            assert (result.world_size, len(result.nodes), result.steps) == (nodes, nodes, 64)
            hosts.setdefault(nodes, set()).update(str(node["host"]) for node in result.nodes)
            row = page.row("scaling", name, f"{nodes} × 1", str(nodes))
            assert row["examples/s"] == number_shown(result.examples_per_second)
            assert page.row("runs", str(runs / f"{method}-{nodes}"))["job"] == str(number)
    assert [len(hosts[nodes]) for nodes in SIZES] == list(SIZES)
    assert len(first.result()["resumed"]) == 1
    assert read_run(runs / "alq-4").result.document["exchange"] == "two_shot"


def number_shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
