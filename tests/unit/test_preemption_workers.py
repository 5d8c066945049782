"""Processes beside a guarded rank: those that load data outlive a signal to all, and a parent ends any of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support.guarded_workers import METHODS

ROOT = Path(__file__).parents[2]


def start(scenario: str) -> subprocess.Popen[str]:
    """Start a program that leads a process group of its own."""
    command = [sys.executable, "-m", "tests.support.guarded_workers", scenario]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, start_new_session=True)


def finish(program: subprocess.Popen[str], line: str = "") -> tuple[dict[str, Any], str]:
    """Return what the program printed last and its complaints; end its whole group when it takes too long."""
    try:
        output, complaints = program.communicate(line, timeout=250)
    except subprocess.TimeoutExpired:
        os.killpg(program.pid, signal.SIGKILL)
        output, complaints = program.communicate()
        pytest.fail(f"not done in time:\n{output}\n{complaints}")
    assert program.returncode == 0, complaints
    return json.loads(output.splitlines()[-1]), complaints


def read_line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


@pytest.mark.parametrize("started", ["inside", "before"])
def test_workers_go_on_when_every_process_is_signalled(started: str) -> None:
    program = start(started)
    assert read_line(program.stdout) == "ready\n"
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
        os.killpg(program.pid, number)
        time.sleep(0.3)
    took, complaints = finish(program, "go on\n")
    expected = {f"loader {method}": 6 for method in METHODS} | {f"pool {method}": [0, 2, 4, 6] for method in METHODS}
    assert took == {"received": True, "stop": True, **expected}
    assert "started before the guard" not in complaints


def test_a_parent_ends_its_children_as_if_there_were_no_guard() -> None:
    ended, _ = finish(start("children"))
    term, usr1 = -signal.SIGTERM, -signal.SIGUSR1
    expected = {f"process {method}": term for method in METHODS} | {f"pool {method}": "ended" for method in METHODS}
    expected |= {"fork term": term, "fork usr1": usr1, "command term": term, "command usr1": usr1}
    assert ended == {**expected, "fork itself": term, "fork handles": 5}


def test_workers_that_are_older_than_the_guard_and_not_shielded_are_named() -> None:
    printed, complaints = finish(start("unshielded"))
    assert f"processes {printed['pid']} were started before the guard" in complaints
    assert "call alq_hvd.checkpoint.shield_workers() before" in complaints
