"""Watch a run from outside: its ``steps.jsonl`` as a progress bar."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import IO, Any

from images.progress import Progress
from images.report import objective


class Follower:
    """Turn the lines that a run appends to ``steps.jsonl`` into a progress bar."""

    def __init__(self, path: Path, label: str, stream: IO[str] | None = None) -> None:
        self._path, self._label, self._stream = path, label, stream or sys.stderr
        self._offset = 0
        self._progress: Progress | None = None
        self._accuracy = ""

    def poll(self) -> None:
        """Show what has been written since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):  # still being written
                    break
                self._offset += len(line)
                self._show(json.loads(line))

    def _show(self, event: dict[str, Any]) -> None:
        if event["kind"] == "start":
            self._progress = Progress(event["total_steps"], self._label, stream=self._stream)
        if self._progress is None:
            return
        if event["kind"] == "epoch":
            self._accuracy = f", test accuracy {100 * event['test_accuracy']:.2f} %"
        elif event["kind"] == "step":
            self._progress.update(event["step"], f"loss {event['loss']:.3f}{self._accuracy}")
        elif event["kind"] == "adaptation":
            verdict = "levels adapted" if event["accepted"] else f"levels kept ({event['reason']})"
            self._progress.say(f"  step {event['step']}: {verdict}, {objective(event)}")

    def say(self, line: str) -> None:
        """Print a line of the run's own output."""
        if self._progress is None:
            print(f"  {line}", file=self._stream, flush=True)
        else:
            self._progress.say(f"  {line}")

    def close(self) -> None:
        """End the bar."""
        if self._progress is not None:
            self._progress.close()
