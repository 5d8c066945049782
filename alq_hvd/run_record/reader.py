"""Read what a run left behind, and say clearly what of it cannot be used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alq_hvd.errors import RunRecordError
from alq_hvd.run_record.fields import RESULT_FILE, STEPS_FILE, RunResult

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """Hold one finished run.

    Attributes:
        directory: where it was read.
        result: what it says at its end.
        events: the lines of ``steps.jsonl``, in order.
        note: what is wrong with the events; empty when nothing is.
    """

    directory: Path
    result: RunResult
    events: tuple[Event, ...]
    note: str = ""

    def curve(self, kind: str, name: str) -> list[tuple[float, float]]:
        """Return (step, value of ``name``) of the events of one kind that have both as numbers."""
        return [
            (float(event["step"]), float(event[name]))
            for event in self.events
            if event.get("kind") == kind and _is_number(event.get("step")) and _is_number(event.get(name))
        ]

    def step_times(self) -> list[float]:
        """Return the wall-clock seconds of those steps that were logged, in order."""
        parts = [event.get("seconds") for event in self.events if event.get("kind") == "step"]
        return [
            sum(split.values())
            for split in parts
            if isinstance(split, Mapping) and split and all(map(_is_number, split.values()))
        ]


def read_run(directory: Path) -> Run:
    """Read the record of a finished run.

    Raises:
        RunRecordError: there is no run, it is not finished, or its result is damaged. Damaged events alone are no
            error: ``Run.note`` names them.
    """
    path, steps = directory / RESULT_FILE, directory / STEPS_FILE
    if not directory.is_dir():
        raise RunRecordError(f"{directory}: expected the folder of a run, got none of that name")
    if not path.exists():
        if not steps.exists():
            raise RunRecordError(f"{directory}: expected a run ({RESULT_FILE} and {STEPS_FILE}), found neither file")
        raise RunRecordError(f"{directory}: not finished: {_progress(steps)}; a finished run has {RESULT_FILE}")
    try:
        result = RunResult.from_document(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise RunRecordError(f"{path}: damaged or unreadable: {error}") from error
    except RunRecordError as error:
        raise RunRecordError(f"{path}: {error}") from error
    events, note = _read_events(steps)
    return Run(directory, result, tuple(events), note)


def _read_events(path: Path) -> tuple[list[Event], str]:
    events: list[Event] = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        return events, f"{path}: {error.strerror}: no curves and no spread of step times for this run"
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
            if not isinstance(event, Mapping):
                raise ValueError("expected a JSON object")
        except (ValueError, RecursionError) as error:
            return events, f"{path}: line {number} is damaged ({error}): read up to there"
        events.append(event)
    return events, ""


def _progress(steps: Path) -> str:
    events, _ = _read_events(steps)
    done = max((event["step"] for event in events if _is_number(event.get("step"))), default=0)
    total = next((event["total_steps"] for event in events if "total_steps" in event), "an unknown number of")
    return f"step {done} of {total} was the last one recorded"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
