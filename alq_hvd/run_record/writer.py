"""Write a run's events as it goes, and its result at the end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

from alq_hvd.run_record.fields import FORMAT, RESULT_FILE, STEPS_FILE, VERSION, RunResult


class RunWriter:
    """Write one run's record into ``directory``, which may hold an earlier run: that one is replaced.

    Args:
        directory: made when missing.
        resume_at: value of ``size`` at which this run goes on; what was written after it goes. ``None``: a new run.
    """

    def __init__(self, directory: Path, resume_at: int | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / RESULT_FILE).unlink(missing_ok=True)
        self._directory = directory
        path = directory / STEPS_FILE
        if path.exists():
            os.truncate(path, min(resume_at or 0, path.stat().st_size))
        self._lines: IO[str] = path.open("a", encoding="utf-8")

    @property
    def size(self) -> int:
        """Return how many bytes the lines take so far."""
        return (self._directory / STEPS_FILE).stat().st_size

    def write(self, kind: str, **values: Any) -> None:
        """Append one event as a line of JSON, at once on disk, so that others can follow the run."""
        self._lines.write(json.dumps({"kind": kind, **values}) + "\n")
        self._lines.flush()

    def close(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write the final result, completely or not at all, and return it as it was written.

        Raises:
            RunRecordError: when ``result`` lacks a field that readers need, or has one they would refuse.
        """
        self._lines.close()
        document = {"format": FORMAT, "format_version": VERSION, **result}
        document["examples_per_second"] = RunResult.from_document(document).examples_per_second
        write_json(self._directory / RESULT_FILE, document)
        return document


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write ``value`` as indented JSON, by way of a temporary file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
