"""How far a run has come: what a checkpoint must hold beside model, optimizer and codec."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

import torch

from alq_hvd.checkpoint import Checkpoint
from alq_hvd.communicator.base import Communicator

PLACES = ("output", "label", "progress", "checkpoint", "checkpoint_every", "data")
"""Options that may differ in the resumed run: where things lie and what is shown."""


@dataclass
class Position:
    """Hold where the run stands, and what its report will need of the time before.

    Attributes:
        epoch: the epoch under way, from 1.
        batch: batches of it that are done.
        step: steps done since the start.
        accuracy: (epoch, test accuracy) so far.
        variance: (step, relative variance) so far.
        seconds: total seconds of each part of a step so far.
        train_seconds: wall-clock seconds so far, without the time between cut and start.
        lines: bytes of ``steps.jsonl`` written so far.
        adapted_at: the step of the newest adaptation in these lines; -1 for none.
        started: when the run began for the first time, UTC, ISO 8601.
        resumed: the steps after which the run was started again.
    """

    epoch: int = 1
    batch: int = 0
    step: int = 0
    accuracy: list[tuple[int, float]] = field(default_factory=list)
    variance: list[tuple[int, float]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    train_seconds: float = 0.0
    lines: int = 0
    adapted_at: int = -1
    started: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    resumed: list[int] = field(default_factory=list)


class Saver:
    """Restore a run's position at its start and save it now and then; do nothing without ``--checkpoint``."""

    def __init__(
        self,
        options: argparse.Namespace,
        model: torch.nn.Module,
        optimizer: Any,
        schedule: Any,
        compression: Any,
        ranks: Communicator,
        weights: Any = None,
    ) -> None:
        self._every: int = options.checkpoint_every
        self._checkpoint: Checkpoint | None = None
        if options.checkpoint is not None:
            settings = {name: value for name, value in vars(options).items() if name not in PLACES}
            if options.front_end == "horovod":  # as it was before there was a choice: older checkpoints go on
                del settings["front_end"]
            self._checkpoint = Checkpoint(
                options.checkpoint,
                model=model,
                optimizer=optimizer,
                schedule=schedule,
                compression=compression,
                settings=settings,
                own={} if weights is None else {"weights": weights},
                communicator=ranks,
            )

    def restore(self) -> Position:
        """Return where the run goes on: at its beginning, or at the newest checkpoint."""
        restored = self._checkpoint.restore() if self._checkpoint is not None else None
        if restored is None:
            return Position()
        position = Position(**restored.position)
        position.resumed.append(restored.step)
        return position

    def due(self, position: Position) -> bool:
        """Return whether ``--checkpoint-every`` asks for a checkpoint now."""
        return self._checkpoint is not None and position.step % self._every == 0

    def save(self, position: Position) -> None:
        """Write a checkpoint; call it on all ranks, between steps."""
        if self._checkpoint is not None:
            self._checkpoint.save(position.step, asdict(position))
