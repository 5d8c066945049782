"""Log lines that say which rank wrote them at which step: ``ALQ_HVD_LOG=info``, or ``info:logs/rank-%r.log``.

The package logs to Python's logger ``alq_hvd`` and those below it, and leaves handlers to the program. Where the
variable is set, they get one of their own, at the first use of a public name: nothing is read at import.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path

from alq_hvd.errors import ConfigurationError

VARIABLE = "ALQ_HVD_LOG"
LEVELS = ("debug", "info", "warning", "error")
FORMAT = "%(asctime)s alq_hvd rank %(rank)s step %(step)s %(levelname)s: %(message)s"
_RANKS = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "RANK", "SLURM_PROCID")
"""Where launchers say a process's rank, for lines before Horovod or torch.distributed have started."""

_here = threading.local()
_started = False


class RankAndStep(logging.Filter):
    """Give records ``rank`` and ``step``, for a handler of the program's own with a format such as ``FORMAT``."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add both; let every record pass."""
        record.rank = rank()
        record.step = getattr(_here, "step", "-")
        return True


def at_step(step: int) -> None:
    """Note how many steps are complete; lines of this thread carry it from now on."""
    _here.step = step


def rank() -> str:
    """Return the rank of this process, "-" where it is in no world."""
    horovod = sys.modules.get("horovod.torch")
    if horovod is not None and horovod.is_initialized():
        return str(horovod.rank())
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return str(distributed.get_rank())
    return next((os.environ[name] for name in _RANKS if name in os.environ), "-")


def start(setting: str | None = None) -> None:
    """Write this package's log lines as ``setting`` says; as ``ALQ_HVD_LOG`` says, and only once, where it is ``None``.

    Args:
        setting: LEVEL or LEVEL:FILE; ``%r`` in FILE stands for the rank. Without a file they go to standard error.

    Raises:
        ConfigurationError: naming what was expected and got.
    """
    global _started
    if setting is None:
        if _started:
            return
        _started = True
        setting = os.environ.get(VARIABLE, "")
        if not setting:
            return
    level, _, file = setting.partition(":")
    if level.lower() not in LEVELS:
        raise ConfigurationError(f"{VARIABLE}: expected one of {', '.join(LEVELS)}, or LEVEL:FILE, got {setting!r}")
    logger = logging.getLogger("alq_hvd")
    for handler in [handler for handler in logger.handlers if getattr(handler, "of_alq_hvd", False)]:
        logger.removeHandler(handler)
        handler.close()
    handler = _handler(file)
    handler.of_alq_hvd = True  # type: ignore[attr-defined]
    handler.addFilter(RankAndStep())
    handler.setFormatter(logging.Formatter(FORMAT))
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False  # the program's own handlers would write every line again


def _handler(file: str) -> logging.Handler:
    if not file:
        return logging.StreamHandler()
    path = Path(file.replace("%r", rank()))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{VARIABLE}: expected a file that can be written, got {path}: {error}") from error
