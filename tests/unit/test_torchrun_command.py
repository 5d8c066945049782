"""``alq-hvd torchrun``: what it tells torchrun, what it refuses, and the status it ends with."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from alq_hvd.checkpoint import PREEMPTED_STATUS
from alq_hvd.cli.torchrun import add_parser, torchrun_words
from alq_hvd.errors import ConfigurationError
from tests.support.launch import environment

ROOT = Path(__file__).parents[2]
SLURM = {"SLURM_STEP_NUM_NODES": "3", "SLURM_NODEID": "1", "SLURM_JOB_ID": "77", "SLURMD_NODENAME": "n2"}


def words(options: str, variables: dict[str, str]) -> list[str]:
    parser = add_parser(argparse.ArgumentParser().add_subparsers())
    return list(
        torchrun_words(parser.parse_args([*shlex.split(options), "--", "python", "a b.py", "--lr", "1"]), variables)
    )


def test_several_nodes_meet_at_the_first() -> None:
    program = ["--no-python", "python", "a b.py", "--lr", "1"]
    assert words("--ranks 4 --endpoint n1:21000", SLURM) == [
        "--nproc-per-node=4", "--local-addr=n2", "--nnodes=3", "--node-rank=1", "--rdzv-backend=c10d",
        "--rdzv-endpoint=n1:21000", "--rdzv-conf=is_host=0", "--rdzv-id=77", *program,
    ]  # fmt: skip
    by_hand = words("--ranks 2 --nodes 2 --node 0 --endpoint [fe80::1]:2000", {})
    assert {"--nnodes=2", "--rdzv-conf=is_host=1", "--rdzv-endpoint=[fe80::1]:2000"} <= set(by_hand)
    assert words("--ranks 2", {}) == ["--nproc-per-node=2", "--standalone", *program]
    assert (
        words("--ranks 2 --endpoint n1:2", {**SLURM, "SLURM_STEP_NUM_NODES": "1", "SLURM_NODEID": "0"})[1]
        == "--standalone"
    )


def test_what_can_not_work_is_refused_by_name() -> None:
    for options, variables, message in (
        ("--ranks 0", {}, "ranks: expected an integer from 1 to 1024, got 0"),
        ("--ranks 1 --nodes 2", {}, "endpoint: expected HOST:PORT of node 0, which all nodes reach, got None"),
        ("--ranks 1 --endpoint n1", SLURM, "endpoint: expected HOST:PORT of node 0.*got 'n1'"),
        ("--ranks 1 --endpoint n1:2 --node 3", SLURM, "node: expected an integer from 0 to 2, got 3"),
        ("--ranks 1", {**SLURM, "SLURM_NODEID": "x"}, "node: expected a number in SLURM_NODEID, got 'x'"),
        ("--ranks 1 --nodes 0", {}, "nodes: expected an integer from 1"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            words(options, variables)


ENDS = """
import os, signal, sys, time
rank = int(os.environ["RANK"])
if sys.argv[1] == "signal":  # as Slurm does, to the process that started this one too
    os.kill(os.getppid(), signal.SIGUSR1)
    sys.exit(75)
time.sleep(30 * rank)
sys.exit(int(sys.argv[1 + rank]))
"""


def test_ranks_end_it_with_the_status_that_brings_a_job_back_into_the_queue(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(ENDS)
    for arguments, status in (("signal", PREEMPTED_STATUS), ("75 75", PREEMPTED_STATUS), ("3 75", 1)):
        command = ["bash", str(ROOT / "launch/torchrun.sh"), "-np", "2", str(program), *arguments.split()]
        variables = {**environment(), "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=variables, check=False)
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"


def test_the_script_refuses_what_it_can_not_start() -> None:
    for arguments, message in (
        ("", "usage|Start a program"),
        ("-np x a.py", "-np: expected a number from 1, got 'x'"),
        ("--lr 1", "expected -np, --nodes, --node, --endpoint or a Python program, got --lr"),
        ("nowhere.py", "expected a Python program, got nowhere.py: no such file"),
    ):
        command = ["bash", str(ROOT / "launch/torchrun.sh"), *arguments.split()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 2, arguments
        assert re.search(message, done.stderr), done.stderr
