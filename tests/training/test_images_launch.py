"""Whatever ends a run - success, failure, its time limit, an interrupt - no rank is left behind."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from images import launch
from images.launch import LaunchError, find_horovodrun, run_on_ranks

pytestmark = [pytest.mark.multirank, pytest.mark.timeout(300)]


def processes_of(marker: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if process.pid != os.getpid() and any(marker in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def sleeper(tmp_path: Path) -> Path:
    program = tmp_path / f"sleeper_{os.getpid()}_{time.monotonic_ns()}.py"
    program.write_text("import time\nprint('asleep', flush=True)\ntime.sleep(300)\n")
    return program


def test_rank_zero_is_heard_and_everything_is_logged(tmp_path: Path) -> None:
    program = tmp_path / "hello.py"
    program.write_text(
        "import os, sys\nrank = os.environ['OMPI_COMM_WORLD_RANK']\nsys.stdout.write(f'rank {rank} threads '\n"
        "    + os.environ['OMP_NUM_THREADS'] + chr(10))\n"
    )
    heard: list[str] = []
    run_on_ranks(2, [str(program)], tmp_path / "log.txt", timeout=200, say=heard.append)
    assert len(heard) == 1
    assert heard[0].startswith("rank 0 threads ")
    log = (tmp_path / "log.txt").read_text()
    assert "rank 0" in log
    assert "rank 1" in log


def test_a_failure_shows_the_end_of_the_output(tmp_path: Path) -> None:
    program = tmp_path / "broken.py"
    program.write_text("raise SystemExit('the cause')\n")
    with pytest.raises(LaunchError, match=r"(?s)ended with status.*log\.txt.*the cause"):
        run_on_ranks(2, [str(program)], tmp_path / "log.txt", timeout=200)


def test_the_time_limit_stops_every_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock jumps past the limit once a rank sleeps, whenever that is."""
    program, log = sleeper(tmp_path), tmp_path / "log.txt"

    def clock() -> float:
        return time.monotonic() + (200 if log.exists() and "asleep" in log.read_text() else 0)

    monkeypatch.setattr(launch, "time", SimpleNamespace(monotonic=clock, sleep=time.sleep))
    with pytest.raises(LaunchError, match="stopped after 200 s"):
        run_on_ranks(2, [str(program)], log, timeout=200)
    assert "asleep" in log.read_text()
    assert processes_of(program.name) == []


def test_an_interrupt_stops_every_rank(tmp_path: Path) -> None:
    program = sleeper(tmp_path)

    def interrupt_when_running() -> None:
        log = tmp_path / "log.txt"
        if log.exists() and "asleep" in log.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_on_ranks(2, [str(program)], tmp_path / "log.txt", timeout=200, poll=interrupt_when_running)
    assert processes_of(program.name) == []


def test_a_missing_horovod_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(LaunchError, match="run 'make setup'"):
        find_horovodrun()


def test_the_users_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert (launch.ENVIRONMENT | dict(os.environ))["OMP_NUM_THREADS"] == "7"
