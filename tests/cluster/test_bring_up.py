"""The cluster that the other tests rely on: hosts of their own, PMIx, GPUs that are counted, users."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cluster.hosts import run
from tests.cluster.slurm import ROOT, Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]
NOBODY = 65534


def test_a_machine_that_holds_a_cluster_is_said_to_be_able_to(cluster: Cluster) -> None:
    assert run([str(ROOT / "tests" / "cluster" / "possible.sh")]) == ""


def test_every_task_runs_on_the_host_it_should(cluster: Cluster) -> None:
    printed = cluster.on_head("srun", "-N4", "--ntasks-per-node=2", "sh", "-c", "hostname; ls /dev/shm | wc -l")
    assert sorted(printed.split()) == sorted(["n1", "n2", "n3", "n4"] * 2 + ["0"] * 8)


def test_pmix_gives_every_task_its_rank(cluster: Cluster) -> None:
    printed = cluster.on_head("srun", "--mpi=pmix", "-N2", "-n4", "sh", "-c", "echo $PMIX_RANK")
    assert sorted(printed.split()) == ["0", "1", "2", "3"]


def test_gpus_are_handed_out_and_no_more_than_there_are(cluster: Cluster) -> None:
    printed = cluster.on_head("srun", "-N1", "-n1", "--gpus-per-node=3", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert printed.strip() == "0,1,2"
    refused = cluster.on_head("sbatch", "-N1", "--gpus-per-node=5", "--wrap=true", check=False)
    assert "Requested node configuration is not available" in refused


def test_a_user_who_is_not_root_can_run_jobs(cluster: Cluster, place: Path) -> None:
    os.chown(place, NOBODY, NOBODY)
    command = ["srun", "-N2", f"--chdir={place}", "sh", "-c", "id -u >$(hostname); hostname"]
    assert sorted(cluster.on_head(*command, user=NOBODY).split()) == ["n1", "n2"]
    assert (place / "n2").read_text().strip() == str(NOBODY)
