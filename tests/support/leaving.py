"""The end of a program of several ranks."""

from __future__ import annotations

import time
from pathlib import Path


def leave_together(results: Path, ranks: int, seconds: float = 100) -> None:
    """Wait until all ranks have written ``RANK.json``: one that leaves closes connections on which others may wait."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not all((results / f"{rank}.json").exists() for rank in range(ranks)):
        time.sleep(0.05)
