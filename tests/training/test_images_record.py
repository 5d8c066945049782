"""A run can be followed while it lasts, and its result is there completely or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from images.record import Record, digest

from alq_hvd.run_record import RESULT_FILE, STEPS_FILE
from tests.support.run_records import result


def test_lines_are_on_disk_at_once(tmp_path: Path) -> None:
    record = Record(tmp_path / "run")
    record.write("step", step=1, loss=0.5)
    lines = (tmp_path / "run" / STEPS_FILE).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"kind": "step", "step": 1, "loss": 0.5}]
    assert not (tmp_path / "run" / RESULT_FILE).exists()
    path = record.close(result(test_accuracy=0.9))
    assert json.loads(path.read_text())["test_accuracy"] == 0.9
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_a_new_run_replaces_the_old_one(tmp_path: Path) -> None:
    for loss in (1.0, 2.0):
        record = Record(tmp_path)
        assert not (tmp_path / RESULT_FILE).exists()
        record.write("step", step=1, loss=loss)
        record.scalars(1, loss=loss, relative_variance=None)
        record.close(result(label=str(loss)))
    assert (tmp_path / STEPS_FILE).read_text().count("\n") == 1
    assert json.loads((tmp_path / RESULT_FILE).read_text())["label"] == "2.0"
    assert len(list((tmp_path / "tensorboard").glob("events.*"))) <= 1


def test_a_resumed_run_keeps_what_was_written_before_its_checkpoint(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.write("step", step=1)
    size = record.size
    record.scalars(1, loss=1.0)
    record.write("step", step=2)
    record.close(result())
    record = Record(tmp_path, resume_at=(1, size))
    assert not (tmp_path / RESULT_FILE).exists()
    record.write("step", step=2, again=True)
    record.close(result())
    lines = [json.loads(line) for line in (tmp_path / STEPS_FILE).read_text().splitlines()]
    assert lines == [{"kind": "step", "step": 1}, {"kind": "step", "step": 2, "again": True}]


def test_a_single_bit_changes_the_digest() -> None:
    weights = {"a": torch.arange(4.0), "steps": torch.tensor(3)}
    same = {name: value.clone() for name, value in reversed(weights.items())}
    other = {**weights, "a": torch.nextafter(weights["a"], torch.tensor(9.0))}
    assert digest(weights) == digest(same)
    assert digest(weights) != digest(other)
