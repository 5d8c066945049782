"""``launch/check_cluster.sh`` as a job: it sees every node, and names the one behind a slow link."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.cluster.hosts import run
from tests.cluster.slurm import ROOT, Cluster
from tests.support.launch import environment

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def check(cluster: Cluster, place: Path, state: str) -> str:
    variables = {**environment(), "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    options = ["--parsable", "--nodes=4", f"--output={place}/%j.out", f"--chdir={ROOT}"]
    number = int(
        cluster.on_head("sbatch", *options, str(ROOT / "launch/check_cluster.sh"), environment=variables).split(";")[0]
    )
    return cluster.log_of(cluster.wait_for(number, state, seconds=200))


def test_the_node_behind_a_slow_link_is_named(cluster: Cluster, place: Path) -> None:
    slow = [
        "tc",
        "qdisc",
        "replace",
        "dev",
        "eth0",
        "root",
        "tbf",
        "rate",
        "40mbit",
        "burst",
        "64kb",
        "latency",
        "50ms",
    ]
    assert cluster.hosts is not None
    run(cluster.hosts.on("n3", *slow))
    try:
        printed = check(cluster, place, "FAILED")
    finally:
        run(cluster.hosts.on("n3", "tc", "qdisc", "del", "dev", "eth0", "root"))
    assert sorted(re.findall(r"^[! ] (n\d)\b", printed, re.MULTILINE)) == ["n1", "n2", "n3", "n4"]
    assert re.search(r"^odd: n3: \d+ MB/s, others \d+$", printed, re.MULTILINE), printed
