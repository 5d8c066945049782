"""What the shell remembers of a tensor between Horovod's calls of ``compress`` and ``decompress``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alq_hvd.frontends.horovod.probe import Probe


@dataclass(frozen=True, slots=True)
class Ticket:
    """Name the gradient that a probe stands for."""

    index: int
    name: str
    probe: Probe


@dataclass(frozen=True, slots=True)
class Passed:
    """Remember the dtype of a tensor that Horovod reduces itself, exact."""

    dtype: Any
