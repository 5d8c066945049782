"""Curves of ``metrics()`` in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from alq_hvd import backends
from alq_hvd.monitoring.scalars import scalars


class TensorBoardMetrics:
    """Write ``compression.metrics()`` beside a program's own curves.

    Args:
        writer: a ``SummaryWriter`` of the program, or a directory for one of its own: for each rank another, or on
            rank 0 alone.
        prefix: of all names; what is before a slash is a group of curves.

    Raises:
        BackendUnavailable: when a directory is given and the package tensorboard is missing.
    """

    def __init__(self, writer: Any, prefix: str = "alq_hvd") -> None:
        self._own = isinstance(writer, (str, Path))
        self._writer = backends.require("torch.utils.tensorboard").SummaryWriter(str(writer)) if self._own else writer
        self._prefix = prefix

    def write(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a point to every curve, at ``step``, or at the number of steps that the compression has completed."""
        at = metrics["step"] if step is None else step
        for name, value in scalars(metrics):
            if name != "step":
                self._writer.add_scalar(f"{self._prefix}/{name}", value, at)

    def close(self) -> None:
        """Write what is left, and close the writer if it is not the program's."""
        self._writer.flush()
        if self._own:
            self._writer.close()

    def __enter__(self) -> TensorBoardMetrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
