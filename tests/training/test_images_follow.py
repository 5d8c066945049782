"""The demo shows what a run writes, also when it reads in the middle of a line."""

from __future__ import annotations

import io
import json
from pathlib import Path

from images.follow import Follower
from images.progress import Progress


def test_a_half_written_line_is_read_when_it_is_complete(tmp_path: Path) -> None:
    path, stream = tmp_path / "steps.jsonl", io.StringIO()
    follower = Follower(path, "alq 3 bits", stream)
    follower.poll()
    assert stream.getvalue() == ""
    start = json.dumps({"kind": "start", "total_steps": 20})
    step = json.dumps({"kind": "step", "step": 10, "loss": 1.25})
    path.write_text(start + "\n" + step[:9])
    follower.poll()
    path.write_text(start + "\n" + step + "\n")
    follower.poll()
    follower.poll()
    follower.close()
    assert stream.getvalue().count("\n") == 1
    assert "10/20" in stream.getvalue()
    assert "loss 1.250" in stream.getvalue()


def test_an_adaptation_is_told(tmp_path: Path) -> None:
    path, stream = tmp_path / "steps.jsonl", io.StringIO()
    event = {"kind": "adaptation", "step": 50, "accepted": True, "objective_before": 0.5, "objective_after": 0.25}
    path.write_text(json.dumps({"kind": "start", "total_steps": 20}) + "\n" + json.dumps(event) + "\n")
    Follower(path, "alq", stream).poll()
    assert "step 50: levels adapted, objective 0.5 -> 0.25 (-50.00 %)" in stream.getvalue()


def test_progress_without_a_terminal_is_ten_plain_lines() -> None:
    stream = io.StringIO()
    progress = Progress(1000, "fp32", "auto", stream)
    for step in range(1, 1001):
        progress.update(step)
    progress.close()
    assert stream.getvalue().count("\n") == 10
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_progress_as_a_bar_rewrites_its_line() -> None:
    stream = io.StringIO()
    progress = Progress(10, "fp32", "bar", stream)
    progress.update(10, "loss 1")
    progress.close()
    assert "\r" in stream.getvalue()
    assert "10/10" in stream.getvalue()


def test_progress_none_is_silent() -> None:
    stream = io.StringIO()
    progress = Progress(10, "fp32", "none", stream)
    progress.update(10, "loss 1")
    progress.close()
    assert stream.getvalue() == ""
