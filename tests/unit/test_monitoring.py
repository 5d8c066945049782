"""``metrics()`` of a compression that has run, as curves of TensorBoard and as text for Prometheus."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from alq_hvd.monitoring import PrometheusMetrics, TensorBoardMetrics
from alq_hvd.monitoring.scalars import scalars

METRICS: dict[str, Any] = {
    "method": "optimal", "bits": (4, 8), "step": 12, "bytes_per_step": 300, "bytes_total": 3600, "exchange": "two_shot",
    "break_even": None, "relative_variance": 0.25, "levels_version": 2, "levels": [-1.0, 0.0, 1.0], "fit_is_due": False,
    "adaptations": [{"step": 0}], "seconds": {"encode": 0.5, "decode": 0.25}, "compressed_elements": 1000,
    "passed_through_elements": 10,
    "later_shots": [{"relative_variance": None, "levels_version": 1, "levels": [0.0], "fit_is_due": True}],
}  # fmt: skip
CURVES = {
    "step": 12, "bytes_per_step": 300, "bytes_total": 3600, "relative_variance": 0.25, "levels_version": 2,
    "fit_is_due": 0, "seconds/encode": 0.5, "seconds/decode": 0.25, "compressed_elements": 1000,
    "passed_through_elements": 10, "later_shots/0/levels_version": 1, "later_shots/0/fit_is_due": 1,
}  # fmt: skip


def test_every_number_becomes_a_curve() -> None:
    assert dict(scalars(METRICS)) == CURVES


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TensorBoardMetrics(tmp_path) as board:
        board.write(METRICS)
        board.write({**METRICS, "step": 13, "bytes_total": 3900})
        board.write(METRICS, step=99)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {f"alq_hvd/{name}" for name in CURVES if name != "step"}
    points = [(event.step, event.value) for event in events.Scalars("alq_hvd/bytes_total")]
    assert points == [(12, 3600), (13, 3900), (99, 3600)]


class Writer:
    """Represent a program's own SummaryWriter."""

    def __init__(self) -> None:
        self.points: list[tuple[str, float, int]] = []
        self.closed = False

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.points.append((name, value, step))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def test_the_programs_own_writer_is_used_and_left_open() -> None:
    writer = Writer()
    with TensorBoardMetrics(writer, prefix="gradients") as board:
        board.write(METRICS)
    assert ("gradients/seconds/encode", 0.5, 12) in writer.points
    assert not writer.closed


def test_prometheus_reads_what_was_written(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    metrics = PrometheusMetrics({"rank": "1", "job": 'a "b"\\'}, registry)
    assert metrics.text() == ""
    metrics.update(METRICS)
    metrics.write(tmp_path / "alq.prom")
    text = (tmp_path / "alq.prom").read_text()
    assert text == metrics.text()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert (labels.pop("rank"), labels.pop("job")) == ("1", 'a "b"\\')
            found[(sample.name, *(labels[name] for name in sorted(labels)))] = (family.type, sample.value)
    assert found == {
        ("alq_hvd_steps_total",): ("counter", 12), ("alq_hvd_sent_bytes_total",): ("counter", 3600),
        ("alq_hvd_step_sent_bytes",): ("gauge", 300), ("alq_hvd_compressed_elements",): ("gauge", 1000),
        ("alq_hvd_passed_through_elements",): ("gauge", 10), ("alq_hvd_relative_variance", "0"): ("gauge", 0.25),
        ("alq_hvd_levels_version", "0"): ("gauge", 2), ("alq_hvd_levels_version", "1"): ("gauge", 1),
        ("alq_hvd_fit_is_due", "0"): ("gauge", 0), ("alq_hvd_fit_is_due", "1"): ("gauge", 1),
        ("alq_hvd_seconds_total", "encode"): ("counter", 0.5), ("alq_hvd_seconds_total", "decode"): ("counter", 0.25),
        ("alq_hvd_compression_info", "(4, 8)", "two_shot", "optimal"): ("gauge", 1),
    }  # fmt: skip


def test_metrics_of_a_real_compression_are_understood() -> None:
    import alq_hvd

    registry = CollectorRegistry()
    for make in (alq_hvd.Compression.optimal, alq_hvd.Compression.none):
        measured = make(exchange="two_shot").metrics()
        assert all(math.isfinite(value) for _, value in scalars(measured))
        PrometheusMetrics({"name": make.method}, registry).update(measured)
    PrometheusMetrics({"name": "third"}, CollectorRegistry()).update(measured)


@pytest.mark.parametrize("package", ["tensorboard", "prometheus_client"])
def test_importing_it_needs_neither_package(package: str) -> None:
    block = f"import sys; sys.modules['{package}'] = None; import alq_hvd.monitoring as m, alq_hvd.errors as e\n"
    make = {"tensorboard": "m.TensorBoardMetrics('/nowhere')", "prometheus_client": "m.PrometheusMetrics()"}[package]
    program = f"{block}try:\n    {make}\nexcept e.BackendUnavailable as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False)
    assert "pip install 'alq-hvd[monitoring]'" in done.stdout, done.stderr
