"""``torchrun`` as the launcher of a job: torch.distributed over several nodes, stopped, requeued, to its end."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.cluster.hosts import wait_until
from tests.cluster.slurm import ROOT, Cluster
from tests.cluster.training_job import sbatch

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PROGRAM = str(ROOT / "tests" / "cluster" / "torch_program.py")


def submit(cluster: Cluster, options: str, *program: str) -> int:
    printed = sbatch(cluster, "--venv", sys.prefix, *shlex.split(options), "--", *program)
    match = re.fullmatch(r"Submitted batch job (\d+)", printed.strip())
    assert match, printed
    return int(match[1])


def test_it_starts_one_rank_a_gpu_and_goes_on_after_a_signal(cluster: Cluster, place: Path) -> None:
    options = f"--nodes 2 --gpus-per-node 2 --cpus-per-task 1 --launcher torchrun --interface eth0 --log {place}/log"
    number = submit(cluster, options, "python", PROGRAM, str(place), "120")
    try:
        wait_until("20 steps", lambda: any(int(path.read_text() or 0) >= 20 for path in place.glob("step-3")), 120)
        cluster.on_head("scancel", "--signal=USR1", str(number))
        ended = cluster.wait_for(number, "COMPLETED", seconds=150)
    except BaseException:
        print((place / "log").read_text())
        raise
    assert (ended["Restarts"], ended["ExitCode"]) == ("1", "0:0")
    assert "stopped with a checkpoint; back into the queue" in (place / "log").read_text()
    stopped = int((place / "checkpoint").read_text())
    assert 20 <= stopped < 120
    lines = [(place / f"end-{rank}").read_text() for rank in range(4)]
    nodes = cluster.nodes_of(number)
    # Ranks need not be numbered in the order of the nodes; those of one node follow each other.
    assert {line.split(" on ")[1].split()[0] for line in lines} == set(nodes)
    for rank, line in enumerate(lines):
        assert re.fullmatch(rf"{rank} of 4 local {rank % 2} on n\d from {stopped} sum 6 gpus 0,1 threads 1", line), line


def test_a_program_that_fails_ends_the_job_with_its_failure(cluster: Cluster, place: Path) -> None:
    options = f"--nodes 1 --gpus-per-node 2 --cpus-per-task 1 --launcher torchrun --log {place}/log"
    number = submit(cluster, options, "python", "-c", "import os; os._exit(3 * int(os.environ['LOCAL_RANK']))")
    ended = cluster.wait_for(number, "FAILED", seconds=100)
    assert (ended["Restarts"], ended["ExitCode"]) == ("0", "1:0")
    assert "exitcode  : 3" in (place / "log").read_text()


def test_ranks_have_the_scripts_environment_where_jobs_are_submitted_without_one(
    cluster: Cluster, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    options = f"--nodes 2 --gpus-per-node 1 --cpus-per-task 3 --interface eth0 --exclude n1 --log {place}/log"
    show = 'echo "$SLURM_PROCID: $SLURM_EXPORT_ENV $OMP_NUM_THREADS $OMPI_MCA_btl_tcp_if_include $(command -v python)"'
    number = submit(cluster, options, "sh", "-c", show)
    cluster.wait_for(number, "COMPLETED", seconds=100)
    assert "n1" not in cluster.nodes_of(number)
    lines = sorted(re.findall(r"^\d: .*", (place / "log").read_text(), re.MULTILINE))
    python = Path(sys.prefix).resolve() / "bin" / "python"
    assert lines == [f"{rank}: NONE 3 eth0 {python}" for rank in range(2)]
