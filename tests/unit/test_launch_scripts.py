"""What launch/local.sh and launch/mpirun.sh really call, and what they refuse; the launchers are stand-ins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
PROGRAM = str(Path(__file__).parents[2] / "examples" / "minimal.py")
STAND_IN = '#!/bin/sh\necho "{name} $*"\necho "threads $OMP_NUM_THREADS yield $OMPI_MCA_mpi_yield_when_idle"\n'


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Return a directory with a python beside a stand-in for every launcher, on a machine of 4 cores without GPU."""
    for name in ("horovodrun", "mpirun"):
        (tmp_path / name).write_text(STAND_IN.format(name=name))
    (tmp_path / "nproc").write_text("#!/bin/sh\necho 4\n")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    for path in tmp_path.iterdir():
        path.chmod(0o755)
    (tmp_path / "python").symlink_to(sys.executable)
    return tmp_path


def call(programs: Path, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "PYTHON": str(programs / "python"), **variables}
    command = ["bash", str(LAUNCH / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, check=False)


def test_local_starts_one_rank_a_core(programs: Path) -> None:
    done = call(programs, "local.sh", PROGRAM, "--lr", "1 2")
    assert done.stdout == f"horovodrun -np 4 {programs}/python {PROGRAM} --lr 1 2\nthreads 1 yield \n"


def test_local_starts_one_rank_a_gpu_and_shares_the_cores(programs: Path) -> None:
    (programs / "nvidia-smi").write_text('#!/bin/sh\necho "GPU 0: A"\necho "GPU 1: A"\n')
    assert "horovodrun -np 2 " in (printed := call(programs, "local.sh", PROGRAM).stdout)
    assert "threads 2 yield \n" in printed


def test_more_ranks_than_cores_make_room(programs: Path) -> None:
    printed = call(programs, "local.sh", "-np", "9", "--gloo", PROGRAM).stdout
    assert printed == f"horovodrun -np 9 --gloo {programs}/python {PROGRAM}\nthreads 1 yield 1\n"


def test_what_the_user_has_set_stays(programs: Path) -> None:
    assert "threads 7" in call(programs, "local.sh", PROGRAM, OMP_NUM_THREADS="7").stdout
    assert "threads 7" in call(programs, "mpirun.sh", "-np", "2", PROGRAM, OMP_NUM_THREADS="7").stdout


def test_mpirun_on_this_machine(programs: Path) -> None:
    printed = call(programs, "mpirun.sh", "-np", "2", PROGRAM, "-x").stdout
    exports = "-x PATH -x OMP_NUM_THREADS"
    assert printed.startswith(
        f"mpirun -np 2 --bind-to none --map-by slot {exports} --oversubscribe {programs}/python {PROGRAM} -x\n"
    )
    assert "--mca mpi_yield_when_idle 1" in call(programs, "mpirun.sh", "-np", "5", PROGRAM).stdout


def test_mpirun_on_several_hosts_and_in_slurm(programs: Path) -> None:
    hosts = ["-np", "8", "-H", "n1:4,n2:4", "--interface", "ib0", PROGRAM]
    printed = call(programs, "mpirun.sh", *hosts).stdout
    assert "-x NCCL_SOCKET_IFNAME --mca btl_tcp_if_include ib0 --mca oob_tcp_if_include ib0 -H n1:4,n2:4 " in printed
    assert "--oversubscribe" not in printed
    assert "--oversubscribe" not in call(programs, "mpirun.sh", "-np", "8", PROGRAM, SLURM_JOB_ID="1").stdout


def test_root_is_allowed_only_when_it_is_root(programs: Path) -> None:
    assert "--allow-run-as-root" not in call(programs, "mpirun.sh", "-np", "2", PROGRAM).stdout
    (programs / "id").write_text("#!/bin/sh\necho 0\n")
    assert "--allow-run-as-root" in call(programs, "mpirun.sh", "-np", "2", PROGRAM).stdout


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("local.sh", ["-np", "0", PROGRAM], "-np: expected a number from 1, got '0'"),
        ("local.sh", ["--mpi", PROGRAM], "expected -np, --gloo or a Python program, got --mpi"),
        ("local.sh", ["no.py"], "expected a Python program, got no.py: no such file"),
        ("local.sh", [], "launch/local.sh examples/train_images.py"),
        ("mpirun.sh", [PROGRAM], "-np: expected a number from 1, got ''"),
        ("mpirun.sh", ["-np", "2", "-H", "a b", PROGRAM], "-H: expected HOST:SLOTS,HOST:SLOTS, got 'a b'"),
        ("mpirun.sh", ["-np", "2", "no.py"], "expected a Python program, got no.py: no such file"),
        ("mpirun.sh", ["-np", "2", "--hosts", "a", PROGRAM], "expected -np, -H, --interface or a Python program"),
        ("check_cluster.sh", [], "sbatch --nodes 4"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_started(
    script: str, arguments: list[str], message: str, programs: Path
) -> None:
    done = call(programs, script, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


@pytest.mark.multirank
@pytest.mark.parametrize("script", ["local.sh", "mpirun.sh"])
def test_two_real_ranks(script: str) -> None:
    done = subprocess.run(
        ["bash", str(LAUNCH / script), "-np", "2", PROGRAM],
        capture_output=True, text=True, timeout=250, check=False, env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "step 200: loss" in done.stdout
