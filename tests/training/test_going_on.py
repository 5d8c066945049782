"""A training that is cut, by a signal or by a kill, ends with the weights of one that was not, bit for bit."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from images.launch import stop

from alq_hvd.checkpoint import PREEMPTED_STATUS
from tests.support.launch import environment

TRAIN_IMAGES = Path(__file__).parents[2] / "examples" / "train_images.py"
HORIZON = 30
"""Steps of a whole run: 3 epochs of 10."""
OPTIONS = (
    "--train-images 320 --batch-size 32 --test-images 100 --epochs 3 --log-every 1 --adapt-at 0 9 20 --no-progress"
)
FOUR_RANKS = f"{OPTIONS} --min-elements 0"
"""Everything compressed: with three ranks or more Horovod itself may add small gradients in another order each run."""
LIMIT = 150.0

pytestmark = [pytest.mark.multirank, pytest.mark.training, pytest.mark.timeout(900)]


class Run:
    """Be one start of the training, with an end in sight whatever happens."""

    def __init__(self, ranks: int, output: Path, checkpoint: Path | None, options: str) -> None:
        self.output = output
        keep = [] if checkpoint is None else ["--checkpoint", str(checkpoint), "--checkpoint-every", "3"]
        command = [str(Path(sys.executable).parent / "horovodrun"), "-np", str(ranks), sys.executable]
        self.process = subprocess.Popen(
            [*command, str(TRAIN_IMAGES), "--output", str(output), *keep, *shlex.split(options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
            start_new_session=True,
        )

    def ranks(self) -> list[psutil.Process]:
        """Return the ranks' processes, in rank order."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                variables, command = process.environ(), process.cmdline()
            except psutil.Error:  # a helper of the launcher that has just ended
                continue
            if "OMPI_COMM_WORLD_RANK" in variables and str(TRAIN_IMAGES) in command:
                found.append((int(variables["OMPI_COMM_WORLD_RANK"]), process))
        return [process for _, process in sorted(found)]

    def wait_for_step(self, step: int) -> list[psutil.Process]:
        """Wait until ``step`` steps are done, and return the ranks, which were looked up before: steps are short."""
        deadline = time.monotonic() + LIMIT
        ranks: list[psutil.Process] = []
        while self.process.poll() is None and time.monotonic() < deadline:
            ranks = ranks or (self.ranks() if self.events("start") else [])
            if ranks and any(event["step"] >= step for event in self.events("step")):
                return ranks
            time.sleep(0.01)
        pytest.fail(f"step {step} was not reached: {self.finish()}")

    def events(self, kind: str) -> list[dict[str, Any]]:
        path = self.output / "steps.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in events if event["kind"] == kind]

    def finish(self) -> tuple[int, str]:
        """Wait for the end; return the launcher's status and all output."""
        try:
            output, _ = self.process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            stop(self.process)
            pytest.fail(f"not done after {LIMIT:g} s: {self.process.communicate()[0][-3000:]}")
        return self.process.returncode, output


@pytest.mark.parametrize(("ranks", "options"), [(2, OPTIONS), (4, FOUR_RANKS)], ids=["2 ranks", "4 ranks"])
def test_a_run_cut_by_a_signal_and_a_kill_ends_like_an_uncut_one(ranks: int, options: str, tmp_path: Path) -> None:
    whole = Run(ranks, tmp_path / "uncut", None, options)
    status, printed = whole.finish()
    assert status == 0, printed
    uncut = json.loads((tmp_path / "uncut" / "result.json").read_text())

    run = Run(ranks, tmp_path / "run", tmp_path / "checkpoints", options)
    run.wait_for_step(4)[-1].send_signal(signal.SIGUSR1)  # one rank hears it, all stop
    status, printed = run.finish()
    assert status == PREEMPTED_STATUS, printed
    assert "the same command goes on from" in printed
    stopped = run.events("step")[-1]["step"]
    assert 4 <= stopped < HORIZON
    assert not (tmp_path / "run" / "result.json").exists()

    run = Run(ranks, tmp_path / "run", tmp_path / "checkpoints", options)
    for process in run.wait_for_step(stopped + 7):  # by then it has written two checkpoints
        process.kill()
    status, _ = run.finish()
    assert status not in (0, PREEMPTED_STATUS)
    *_, previous, newest = sorted((tmp_path / "checkpoints").glob("step-*.ckpt"))
    os.truncate(newest, newest.stat().st_size // 2)

    run = Run(ranks, tmp_path / "run", tmp_path / "checkpoints", options)
    status, printed = run.finish()
    assert status == 0, printed
    assert f"checkpoint {newest} is damaged" in printed
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["resumed"] == [stopped, int(re.findall(r"\d+", previous.name)[0])]
    for name in ("weights_sha256", "accuracy", "variance", "steps", "adaptations", "bytes_per_step"):
        assert result[name] == uncut[name], name
    # Every step is recorded once, whether it was done once or twice.
    assert [event["step"] for event in run.events("step")] == list(range(1, HORIZON + 1))
    assert [event["step"] for event in run.events("adaptation")] == [0, 9, 20]
    assert [event["step"] for event in run.events("resume")] == result["resumed"]


def test_term_stops_too_and_other_options_do_not_go_on(tmp_path: Path) -> None:
    run = Run(2, tmp_path / "run", tmp_path / "checkpoints", f"{OPTIONS} --seed 1")
    run.wait_for_step(1)[0].send_signal(signal.SIGTERM)
    assert run.finish()[0] == PREEMPTED_STATUS
    status, printed = Run(2, tmp_path / "run", tmp_path / "checkpoints", f"{OPTIONS} --seed 2").finish()
    assert status == 2
    for rank in range(2):  # every rank hears it
        assert f"rank {rank}: seed: expected 1, with which" in printed
