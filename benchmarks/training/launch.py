"""Train once on ranks of this machine, or read what an earlier run of the same training left; store what was found."""

from __future__ import annotations

import json
import math
import socket
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alq_hvd import machine
from benchmarks.network.launch import JobFailed, run_ranks, torch_variables

TIMEOUT = 3600
_ROOT = Path(__file__).parents[2]
_RANK = Path(__file__).with_name("rank.py")


def outcome(job: dict[str, Any], ranks: int, file: Path) -> dict[str, Any]:
    """Return what rank 0 found in a training with one way, from ``file`` if that is there; else write it.

    Args:
        job: what ``rank.py`` takes; its ``ways`` hold one.
        ranks: how many.
        file: of the outcome, JSON.

    Raises:
        JobFailed: a rank failed, or ranks ended with other weights.
    """
    if file.exists():
        stored: dict[str, Any] = json.loads(file.read_text())
        return stored
    (way,) = job["ways"]
    command = [sys.executable, str(_RANK), json.dumps(job)]
    port = _free_port()
    variables = [torch_variables(rank, ranks, "127.0.0.1", "lo", port) for rank in range(ranks)]
    outputs = [json.loads(text.splitlines()[-1])[way] for text in run_ranks([command] * ranks, variables, TIMEOUT)]
    if len({output["digest"] for output in outputs}) != 1:
        raise JobFailed(f"{file.stem}: expected equal weights on all ranks, got others")
    found: dict[str, Any] = outputs[0]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found))
    loss, sent = found["curve"][-1]["loss"], found["bytes_per_step"]
    print(f"{file.stem}: loss {loss:.4f}, {sent:,.0f} bytes a step", flush=True)
    return found


def last_losses(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the validation losses at the end of ``runs``, with mean and standard error; that of one run is 0."""
    losses = [each["curve"][-1]["loss"] for each in runs]
    spread = statistics.stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0
    return {"loss": losses, "mean": statistics.mean(losses), "standard_error": spread}


def store(training: dict[str, Any], rows: Sequence[dict[str, Any]], output: Path) -> None:
    """Write what was trained, where and with which commit, and what came out; name the file."""
    described = machine.describe()
    described.pop("host", None)
    found = {"training": training, "commit": machine.commit(_ROOT), "machine": described, "rows": rows}
    output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"kept in {output} and {output.with_suffix('.png')}")


def _free_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
