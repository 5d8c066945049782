"""Start the image training as a batch job, as a user would, and follow what it writes."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.hosts import wait_until
from tests.cluster.slurm import ROOT, Cluster
from tests.support.launch import environment

TINY = "--train-images 512 --test-images 64 --log-every 1 --adapt-at 0 9 --min-elements 0 --no-progress"
"""Steps of milliseconds, every gradient compressed, so that any number of ranks adds up in the same order each time."""
START_SECONDS = 240.0
"""For 16 ranks on two busy cores: most of it is importing torch."""


@dataclass(frozen=True)
class TrainingJob:
    """Know a submitted training."""

    cluster: Cluster
    number: int
    output: Path
    checkpoints: Path

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return what the run has recorded so far."""
        path = self.output / "steps.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in events if event["kind"] == kind]

    def wait_for_step(self, step: int) -> None:
        """Wait until ``step`` steps are done."""

        def done() -> bool:
            state = self.cluster.job(self.number)["JobState"]
            if state in ("FAILED", "COMPLETED", "CANCELLED"):
                raise AssertionError(f"{state} before step {step}: {self.log()}")
            return any(event["step"] >= step for event in self.events("step"))

        wait_until(f"step {step} of job {self.number}", done, START_SECONDS, 0.05)

    def wait_for(self, *states: str, seconds: float = START_SECONDS) -> Mapping[str, str]:
        """Wait until the job is in one of ``states``."""
        return self.cluster.wait_for(self.number, *states, seconds=seconds)

    def log(self) -> str:
        """Return the end of what the job printed."""
        return self.cluster.log_of(self.cluster.job(self.number))

    def result(self) -> dict[str, Any]:
        """Return the result of a finished run."""
        result: dict[str, Any] = json.loads((self.output / "result.json").read_text())
        return result

    def checkpoint_steps(self) -> list[int]:
        """Return the steps of the checkpoints on disk."""
        return sorted(int(re.findall(r"\d+", path.name)[0]) for path in self.checkpoints.glob("step-*.ckpt"))


def submit(
    cluster: Cluster, place: Path, options: str, program: str, name: str = "run", user: int | None = None
) -> TrainingJob:
    """Render and submit a job that trains with the options ``program``, keeping a checkpoint every 5 steps.

    ``name`` may hold what stands for something else in an array, such as ``%a``.
    """
    output, checkpoints = place / name, place / f"{name}-checkpoints"
    words = ["--venv", sys.prefix, "--log", str(place / "%x-%A-%a-%j.out"), *shlex.split(options), "--", "python"]
    words += ["examples/train_images.py", "--output", str(output), "--checkpoint", str(checkpoints)]
    # By name: what "auto" measures may differ from run to run, and these runs are compared bit for bit.
    words += ["--exchange", "two_shot", "--checkpoint-every", "5", *shlex.split(TINY), *shlex.split(program)]
    printed = sbatch(cluster, *words, user=user)
    match = re.fullmatch(r"Submitted batch job (\d+)", printed.strip())
    assert match, printed
    return TrainingJob(cluster, int(match[1]), output, checkpoints)


def sbatch(cluster: Cluster, *words: str, user: int | None = None) -> str:
    """Run ``alq-hvd sbatch --submit`` on the login node, as root or as ``user``, and return what it prints."""
    allow = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if user is None else {}
    home = {} if user is None else {"HOME": str(cluster.directory / "jobs"), "USER": "nobody", "LOGNAME": "nobody"}
    variables = {**environment(), **allow, **home, "PYTHONPATH": str(ROOT)}
    os.chdir(ROOT)
    command = [sys.executable, "-m", "alq_hvd", "sbatch", "--submit", *words]
    return cluster.on_head(*command, check=False, user=user, environment=variables)
