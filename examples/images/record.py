"""What a run leaves behind: ``steps.jsonl`` as it goes, TensorBoard scalars, ``result.json`` at the end."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch  # a program that only reads records need not wait for it

STEPS_FILE = "steps.jsonl"
RESULT_FILE = "result.json"


class Record:
    """Write one run's events into ``directory``, which may hold an earlier run: that one is replaced.

    Args:
        directory: made when missing.
        resume_at: (step, value of ``size`` at that step) at which this run goes on; what was written after it goes.
    """

    def __init__(self, directory: Path, resume_at: tuple[int, int] | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / RESULT_FILE).unlink(missing_ok=True)
        self._directory = directory
        step, size = resume_at or (None, 0)
        path = directory / STEPS_FILE
        if path.exists():
            os.truncate(path, min(size, path.stat().st_size))
        self._lines: IO[str] = path.open("a", encoding="utf-8")
        self._scalars = _open_tensorboard(directory / "tensorboard", step)

    @property
    def size(self) -> int:
        """Return how many bytes the lines take so far."""
        return (self._directory / STEPS_FILE).stat().st_size

    def write(self, kind: str, **values: Any) -> None:
        """Append one event as a line of JSON, at once on disk, so that others can follow the run."""
        self._lines.write(json.dumps({"kind": kind, **values}) + "\n")
        self._lines.flush()

    def scalars(self, step: int, **values: float | None) -> None:
        """Add TensorBoard scalars; do nothing where tensorboard is not installed."""
        if self._scalars is not None:
            for name, value in values.items():
                if value is not None:
                    self._scalars.add_scalar(name, value, step)

    def close(self, result: dict[str, Any]) -> Path:
        """Write the final result and return its path; the file is there completely or not at all."""
        self._lines.close()
        if self._scalars is not None:
            self._scalars.close()
        path = self._directory / RESULT_FILE
        write_json(path, result)
        return path


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write ``value`` as indented JSON, by way of a temporary file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def digest(state: dict[str, torch.Tensor]) -> str:
    """Return the sha256 of every tensor of a ``state_dict``: equal on two ranks only if every bit is."""
    sha256 = hashlib.sha256()
    for name in sorted(state):
        sha256.update(name.encode())
        sha256.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()


def _open_tensorboard(directory: Path, resume_at: int | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # tensorboard is optional: steps.jsonl holds the same numbers
        return None
    if resume_at is not None:
        return SummaryWriter(str(directory), purge_step=resume_at + 1)
    # Two runs in one folder would be drawn over each other.
    for old in directory.glob("events.out.tfevents.*"):
        old.unlink()
    return SummaryWriter(str(directory))
