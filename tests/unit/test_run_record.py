"""A run's record reads back as it was written; what is damaged, unfinished or no run at all is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from alq_hvd.communicator.loopback import LoopbackWorld
from alq_hvd.errors import RunRecordError
from alq_hvd.run_record import RESULT_FILE, STEPS_FILE, RunResult, RunWriter, describe_world, fields, read_run
from tests.support.cases import each
from tests.support.run_records import STEPS, result, write_run


def test_what_is_written_is_read(tmp_path: Path) -> None:
    fields = result("alq", 4)
    run = read_run(write_run(tmp_path / "run", "alq", 4))
    assert run.note == ""
    assert (run.result.compression, run.result.bits, run.result.world_size) == ("alq", (3,), 4)
    assert dict(run.result.seconds_per_step) == fields["seconds_per_step"]
    assert run.result.step_seconds == pytest.approx(sum(fields["seconds_per_step"].values()))
    assert [len(shot) for shot in run.result.shots] == [3, 3]
    assert len(run.step_times()) == STEPS
    assert run.curve("epoch", "test_accuracy")[-1] == (STEPS, pytest.approx(0.8))
    document = json.loads((tmp_path / "run" / RESULT_FILE).read_text())
    assert (document["format"], document["format_version"]) == ("alq_hvd.run", 1)
    assert document["examples_per_second"] == run.result.examples_per_second == pytest.approx(
        256 / sum(fields["seconds_per_step"].values())
    )  # fmt: skip


def test_a_writer_refuses_what_a_reader_would(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    with pytest.raises(RunRecordError, match="parameters: expected this field"):
        writer.close(result(parameters=None))
    assert not (tmp_path / RESULT_FILE).exists()
    assert not list(tmp_path.glob("*.tmp"))


@each(
    ("changes", "message"),
    [
        ({"format": None}, "format: expected 'alq_hvd.run', got None"),
        ({"format_version": 2}, "format_version: expected 1, got 2: read it with the alq_hvd that wrote it"),
        ({"model": 7}, "model: expected a text, got 7"),
        ({"steps": 0}, "steps: expected an integer from 1, got 0"),
        ({"seed": True}, "seed: expected an integer, got True"),
        ({"bytes_per_step": float("nan")}, "bytes_per_step: expected a number from 0, got nan"),
        ({"bytes_are": "guessed"}, "bytes_are: expected 'counted' or 'computed', got 'guessed'"),
        ({"seconds_per_step": {"compute": 1.0}}, "seconds_per_step.encode: expected this field"),
        ({"seconds_per_step": dict.fromkeys(("compute", "encode", "exchange", "decode", "adapt"), 0)}, "more than 0"),
        ({"seconds_per_step": [1]}, r"seconds_per_step: expected an object, got \[1\]"),
        ({"accuracy": [[1, 2, 3]]}, "accuracy: expected pairs of numbers"),
        ({"accuracy": "high"}, "accuracy: expected a list, got 'high'"),
        ({"bits": [3, 9]}, r"bits: expected widths from 0.5 to 8 or null, got \[3, 9\]"),
        (
            {"nodes": [{"host": "n1", "ranks": [0, 1]}]},
            r"nodes: expected each of 4 ranks on one node, got ranks \[0, 1",
        ),
        ({"nodes": [{"ranks": [0]}]}, "nodes: expected host and ranks of each"),
        ({"adaptations": [{"step": 1, "levels_before": [], "levels_after": [1]}]}, "expected levels_before as a list"),
        ({"software": ["torch"]}, r"software: expected an object or null, got \['torch'\]"),
        ({"train_seconds": "long"}, "train_seconds: expected a number or null, got 'long'"),
        ({"break_even": {"choice": "fp32"}}, "seconds: expected this field"),
        ({"break_even": {"seconds": {"fp32": "?"}}}, "break_even.seconds.fp32: expected a number from 0"),
        ({"nodes": [{"host": "n1", "ranks": [0], "gpus": 4}]}, "nodes: gpus: expected a list or null, got 4"),
        ({"later_shots": [3]}, "later_shots: expected an object, got 3"),
    ],
)
def test_a_damaged_field_is_named(changes: dict[str, Any], message: str) -> None:
    document = {"format": "alq_hvd.run", "format_version": 1, **result(**changes)}
    if changes.get("format", "") is None:
        del document["format"]
    with pytest.raises(RunRecordError, match=message):
        RunResult.from_document(document)


def test_what_is_no_finished_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunRecordError, match="absent: expected the folder of a run, got none of that name"):
        read_run(tmp_path / "absent")
    with pytest.raises(RunRecordError, match="found neither file"):
        read_run(tmp_path)
    events = [{"kind": "start", "total_steps": 9}, {"kind": "step", "step": 4}]
    (tmp_path / STEPS_FILE).write_text("".join(json.dumps(event) + "\n" for event in events))
    with pytest.raises(RunRecordError, match="not finished: step 4 of 9 was the last one recorded"):
        read_run(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": "other"}', b"[" * 100_000])
def test_a_damaged_result_names_its_file(content: bytes, tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / RESULT_FILE).write_bytes(content)
    with pytest.raises(RunRecordError, match=str(tmp_path / RESULT_FILE)):
        read_run(tmp_path)


def test_damaged_events_cost_only_what_follows_them(tmp_path: Path) -> None:
    write_run(tmp_path)
    lines = (tmp_path / STEPS_FILE).read_bytes().splitlines(keepends=True)
    (tmp_path / STEPS_FILE).write_bytes(b"".join(lines[:5]) + lines[5][:10])
    run = read_run(tmp_path)
    assert len(run.events) == 5
    assert "line 6 is damaged" in run.note
    (tmp_path / STEPS_FILE).unlink()
    assert "no curves" in read_run(tmp_path).note


def test_a_world_is_described_with_every_rank_on_its_host() -> None:
    described = LoopbackWorld(3).run(describe_world)
    assert all(other["nodes"] == described[0]["nodes"] for other in described)
    (node,) = described[0]["nodes"]
    assert node["ranks"] == [0, 1, 2]
    assert node["cores"] >= 1 and node["memory_bytes"] > 2**20 and node["processor"]
    assert described[0]["software"]["numpy"] == node["software"]["numpy"]
    assert "horovod controller" not in described[0]["software"]  # a loopback is not Horovod


def test_the_page_about_the_format_names_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "run-record.md").read_text()
    read = {field.name for field in dataclasses.fields(RunResult)} - {"shots", "document"}
    for name in read | fields._OPTIONAL.keys() | fields._OPTIONAL_OF_NODE.keys() | set(fields.PARTS):
        assert f"`{name}`" in page, name
    assert f"format version {fields.VERSION}" in page.replace("\n", " ")
