"""What a run leaves behind: a run record as alq_hvd defines it, and beside it TensorBoard scalars."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alq_hvd.run_record import RESULT_FILE, RunWriter

if TYPE_CHECKING:
    import torch  # a program that only reads records need not wait for it


class Record:
    """Write one run's events into ``directory``, which may hold an earlier run: that one is replaced.

    Args:
        directory: made when missing.
        resume_at: (step, value of ``size`` at that step) at which this run goes on; what was written after it goes.
    """

    def __init__(self, directory: Path, resume_at: tuple[int, int] | None = None) -> None:
        step, size = resume_at or (None, None)
        self._directory = directory
        self._writer = RunWriter(directory, size)
        self._scalars = _open_tensorboard(directory / "tensorboard", step)

    @property
    def size(self) -> int:
        """Return how many bytes the lines take so far."""
        return self._writer.size

    def write(self, kind: str, **values: Any) -> None:
        """Append one event."""
        self._writer.write(kind, **values)

    def scalars(self, step: int, **values: float | None) -> None:
        """Add TensorBoard scalars; do nothing where tensorboard is not installed."""
        if self._scalars is not None:
            for name, value in values.items():
                if value is not None:
                    self._scalars.add_scalar(name, value, step)

    def close(self, result: dict[str, Any]) -> Path:
        """Write the final result and return its path."""
        if self._scalars is not None:
            self._scalars.close()
        self._writer.close(result)
        return self._directory / RESULT_FILE


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
