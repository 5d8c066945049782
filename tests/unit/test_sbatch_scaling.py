"""The sweep of a scaling study: what is refused, and what the rendered loop really does, with stand-ins for Slurm."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from alq_hvd import cli
from alq_hvd.slurm.sweep import doublings
from tests.support.cases import each

STAND_IN = """#!/bin/bash
# Be srun for the trainings: note the call, finish the run unless told otherwise.
echo "$*" >>calls
for word; do [[ $word != --output=* ]] || run=${word#--output=}; done
name=$(basename "$run")
mkdir -p "$run"
[[ " ${STOP:-} " != *" $name "* ]] || exit 75
[[ " ${FAIL:-} " != *" $name "* ]] || exit 7
echo {} >"$run/result.json"
"""


def test_sizes_double_and_end_with_all() -> None:
    assert [doublings(nodes) for nodes in (1, 2, 3, 8, 9)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 9]]


@each(
    ("arguments", "message"),
    [
        ("--sizes 1 2", "sizes, method, runs: expected --scaling with them, got none"),
        ("--runs here", "sizes, method, runs: expected --scaling with them, got none"),
        ("--scaling --nodes 2 --sizes 1 4", "sizes: expected at most 2, the nodes of the job, got 4"),
        ("--scaling --nodes 4 --sizes 2 1", r"sizes: expected increasing numbers of nodes from 1, got \[2, 1\]"),
        ("--scaling --sizes 0", r"sizes: expected increasing numbers of nodes from 1, got \[0\]"),
        ("--scaling --launcher mpirun", "launcher: expected srun, which alone starts ranks on a part of the nodes"),
        ("--scaling --method fp16", "method: expected NAME=ARGUMENTS, such as fp16=--compression=fp16, got 'fp16'"),
        ("--scaling --method 'a b=-c'", "method: expected letters, digits, _ . or - as its name, got 'a b'"),
        ("--scaling --method 'a=$HOME'", r"method: expected arguments without quotes, \$ or"),
        ("--scaling --method a=1 --method a=2", "method: expected every name once"),
        ("--scaling -- python train.py", "command: expected %r in it, which stands for the folder of a run"),
    ],
)
def test_what_can_not_work_is_refused_by_name(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sbatch", *shlex.split(arguments)]) == cli.ERROR_STATUS
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(message, captured.err), captured.err


class Job:
    """Run a rendered sweep as Slurm would, again and again under the same number."""

    def __init__(self, place: Path, options: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["sbatch", "--scaling", "--gpus-per-node", "2", *shlex.split(options)]) == 0
        (place / "job").write_text(capsys.readouterr().out)
        stand_ins = {
            "srun": STAND_IN,
            "alq-hvd": '#!/bin/bash\necho "report $*" >>calls\nexit "${REPORT:-0}"\n',
            "squeue": '#!/bin/bash\n[[ $* == *%T* ]] && echo RUNNING || echo "${END:-}"\n',
            # What requeuing does to this script, only sooner.
            "scontrol": '#!/bin/bash\necho "scontrol $*" >>calls\nkill "$PPID"\n',
        }
        (place / "bin").mkdir()
        for name, text in stand_ins.items():
            (place / "bin" / name).write_text(text)
            (place / "bin" / name).chmod(0o755)
        self.place = place

    def run(self, **variables: str) -> tuple[int, list[str]]:
        """Return the job's status and the commands it called."""
        calls = self.place / "calls"
        calls.write_text("")
        slurm = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "3", "PATH": f"{self.place}/bin:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "job"], cwd=self.place, env={**slurm, **variables}, capture_output=True, timeout=60, check=False
        )
        return done.returncode, calls.read_text().splitlines()


def runs_of(calls: list[str]) -> list[str]:
    return [match[1] for call in calls if (match := re.search(r"--output=\S*/(\w+-\d+)", call))]


def test_every_method_runs_at_every_size_and_the_report_follows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, calls = Job(tmp_path, "--nodes 4", capsys).run()
    assert status == 0
    assert runs_of(calls) == [f"{method}-{nodes}" for nodes in (1, 2, 4) for method in ("fp32", "fp16", "alq")]
    assert calls[-1] == "report report runs/scaling-7 --output runs/scaling-7/scaling.html"
    third = calls[5]
    assert "--nodes=2 --ntasks=4 --ntasks-per-node=2" in third
    assert third.endswith(
        "python examples/train_images.py --checkpoint=runs/scaling-7/alq-2/checkpoints --output=runs/scaling-7/alq-2 "
        "--compression=alq --bits=3 --exchange=two_shot"
    )


def test_a_stop_requeues_and_the_next_start_repeats_nothing_that_is_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(tmp_path, "--nodes 2", capsys)
    status, calls = job.run(STOP="fp32-2")
    assert runs_of(calls) == ["fp32-1", "fp16-1", "alq-1", "fp32-2"]
    assert calls[-1] == "scontrol requeue 7"
    assert status != 0
    status, calls = job.run(SLURM_RESTART_COUNT="1")
    assert status == 0
    assert runs_of(calls) == ["fp32-2", "fp16-2", "alq-2"]
    assert calls[-1].startswith("report ")
    assert job.run() == (0, calls[-1:])


def test_after_the_last_restart_it_ends_without_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, calls = Job(tmp_path, "--nodes 1 --restarts 0", capsys).run(STOP="fp16-1")
    assert status == 75
    assert runs_of(calls) == ["fp32-1", "fp16-1"]
    assert len(calls) == 2


def test_a_run_that_fails_does_not_keep_the_others_from_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(tmp_path, "--nodes 1 --method 'a=--lr 1' --method b= --runs 'my sweep' -- p.py --output=x/%r", capsys)
    status, calls = job.run(FAIL="a-1")
    assert status == 7
    assert len(calls) == 3
    assert calls[2] == "report report my sweep --output my sweep/scaling.html"


def test_a_report_that_leaves_runs_out_fails_the_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = Job(tmp_path, "--nodes 1", capsys).run(REPORT="1")
    assert status == 1


@pytest.mark.parametrize(
    ("seconds_left", "runs"), [(3600, ["fp32-1", "fp16-1", "alq-1"]), (320, ["fp32-1", "fp16-1", "alq-1"]), (290, [])]
)
def test_no_training_starts_when_the_signal_has_been_sent(
    seconds_left: int, runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slurm signals 300 seconds before the end, and only what runs then hears it."""
    end = datetime.now() + timedelta(seconds=seconds_left)
    _, calls = Job(tmp_path, "--nodes 1", capsys).run(END=end.isoformat(timespec="seconds"))
    assert runs_of(calls) == runs
    assert (calls[-1] == "scontrol requeue 7") is not bool(runs)
