"""Real elastic Horovod: ranks are added, killed and replaced, and the training ends with equal ranks."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from images.launch import stop

from tests.support.launch import environment

ELASTIC = Path(__file__).parents[2] / "examples" / "elastic.py"
STEPS, COMMIT_EVERY = 300, 5
OPTIONS = f"--steps {STEPS} --commit-every {COMMIT_EVERY} --batch-size 48 --adapt-at 0 10 150 250 --pause 0.04"
"""Long enough to change the world in the middle, and levels that change before, between and after."""
LIMIT = 300.0

pytestmark = [pytest.mark.multirank, pytest.mark.training, pytest.mark.timeout(400)]


class Run:
    """Be one elastic run, whose hosts can be changed while it runs; it ends with the ``with`` block."""

    def __init__(self, directory: Path, hosts: str, options: str) -> None:
        self.output = directory / "out"
        self._hosts = directory / "hosts"
        self.set_hosts(hosts)
        script = directory / "hosts.sh"
        script.write_text(f"#!/bin/sh\ncat {shlex.quote(str(self._hosts))}\n")
        script.chmod(0o755)
        # "lo": else Horovod would first look, from two hosts at least, for a network that they share.
        launcher = [str(Path(sys.executable).parent / "horovodrun"), "--network-interface", "lo"]
        command = [*launcher, *shlex.split(options), "--host-discovery-script", str(script), sys.executable]
        self._process = subprocess.Popen(
            [*command, str(ELASTIC), "--output", str(self.output), *shlex.split(OPTIONS)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Old ranks wait for new ones, which have to import torch first, and here on few cores.
            env={**environment(), "HOROVOD_GLOO_TIMEOUT_SECONDS": "30"},
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._deadline = time.monotonic() + LIMIT

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        stop(self._process)
        self._reader.join(10)

    def set_hosts(self, hosts: str) -> None:
        """Let the discovery script print these hosts from now on."""
        draft = self._hosts.with_suffix(".new")
        draft.write_text(hosts.replace(" ", "\n") + "\n")
        draft.replace(self._hosts)

    @property
    def printed(self) -> str:
        return "".join(self._lines)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as printed:
            for line in printed:
                self._lines.append(line)

    def wait_for(self, pattern: str, count: int = 1) -> list[Any]:
        """Wait until ``pattern`` has been printed ``count`` times, and return the matches."""
        while len(found := re.findall(pattern, self.printed)) < count:
            if self._process.poll() is not None or time.monotonic() > self._deadline:
                pytest.fail(f"{pattern!r} was not printed {count} times:\n{self.printed[-6000:]}")
            time.sleep(0.02)
        return found

    def world(self, size: int, number: int = 1) -> dict[int, psutil.Process]:
        """Wait for all ranks of the ``number``-th world of this size, and return their processes."""
        started = self.wait_for(rf"rank (\d+) of {size}, pid (\d+): from step", size * number)
        return {int(rank): psutil.Process(int(pid)) for rank, pid in started[-size:]}

    def results(self) -> list[dict[str, Any]]:
        """Wait for the end and return what each rank of the last world has written, all being equal."""
        try:
            status = self._process.wait(max(1.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pytest.fail(f"not done after {LIMIT:g} s:\n{self.printed[-6000:]}")
        self._reader.join(10)
        assert status == 0 or "exit with status code" in self.printed, self.printed[-6000:]
        found = [json.loads(path.read_text()) for path in sorted(self.output.glob("rank-*.json"))]
        assert found, self.printed[-6000:]
        assert len(found) == found[0]["size"]
        for result in found:
            assert result["step"] == STEPS
            assert result["exchange"] == ("two_shot" if len(found) > 1 else "")
            for name in ("weights_sha256", "levels", "worlds", "accuracy"):
                assert result[name] == found[0][name], name
            for mine, first in zip(result["later_shots"], found[0]["later_shots"], strict=True):
                assert mine["levels"] == first["levels"]
        return found


def test_ranks_come_and_the_first_ones_are_killed(tmp_path: Path) -> None:
    """A killed rank costs its whole host: in the end only ranks are left that joined in the middle."""
    with Run(tmp_path, "localhost:2", "-np 2 --min-np 2 --max-np 4") as run:
        run.wait_for(r"step 20:")
        run.set_hosts("localhost:2 127.0.0.1:2")
        four = run.world(4)
        four[0].kill()
        two = run.world(2, number=2)
        first, *_ = run.results()
    assert [two[rank].pid for rank in (0, 1)] == [four[rank].pid for rank in (2, 3)]
    assert [world["size"] for world in first["worlds"]] == [2, 4, 2]
    assert [world["levels_version"] for world in first["worlds"]] == [0, 2, 2]  # what the first two have learned
    assert 20 <= first["worlds"][1]["step"] <= first["worlds"][2]["step"] < STEPS
    assert all(world["step"] % COMMIT_EVERY == 0 for world in first["worlds"])
    assert first["levels_version"] == 4
    assert first["accuracy"] > 0.7


def test_a_host_is_replaced_in_a_world_of_the_same_size(tmp_path: Path) -> None:
    """Nothing but the world itself tells the rank that stays: the size is the same, and mostly its rank."""
    with Run(tmp_path, "localhost:1 127.0.0.1:1", "-np 2 --min-np 1 --max-np 2") as run:
        run.wait_for(r"step 20:")
        before = run.world(2)
        run.set_hosts("localhost:2")
        after = run.world(2, number=2)
        first, *_ = run.results()
    stayed = {process.pid for process in before.values()} & {process.pid for process in after.values()}
    assert stayed == {after[0].pid}  # it leads, so that its state becomes the new rank's
    assert [world["size"] for world in first["worlds"]] == [2, 2]
    assert [world["levels_version"] for world in first["worlds"]] == [0, 2]
    assert first["levels_version"] == 4
    assert first["accuracy"] > 0.7
