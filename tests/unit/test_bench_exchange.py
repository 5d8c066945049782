"""The benchmark of exchanges, where it need not measure: what it refuses, and how it reads its own ways."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import exchange
from benchmarks.network.hosts import bits_per_second
from benchmarks.network.ways import DEFAULTS, Constants, planned
from tests.support.cases import each

ELEMENTS = 1_000_000


def test_without_root_it_says_so_and_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "exchange.json"
    monkeypatch.setattr(sys, "argv", ["exchange.py", "--output", str(output)])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("benchmarks.network.hosts.TOOLS", ())
    assert exchange.main() == 2
    assert "expected root" in capsys.readouterr().err
    assert not output.exists()


def test_without_the_tools_it_names_the_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["exchange.py"])
    monkeypatch.setattr("benchmarks.network.hosts.TOOLS", ("no-such-tool",))
    assert exchange.main() == 2
    assert "not found: no-such-tool. apt-get install iproute2 util-linux" in capsys.readouterr().err


@each(
    ("way", "bytes_per_element"),
    [("fp32", 6.0), ("fp16", 3.0), ("allgather 4", 1.512), ("two_shot 3", 0.568), ("two_shot 4,8", 1.131)],
)
def test_every_way_is_planned_as_what_it_is(way: str, bytes_per_element: float) -> None:
    plan = planned(way, 4, "100mbit", ELEMENTS, 2**22, DEFAULTS)
    assert plan is not None
    assert plan.bytes_per_rank / ELEMENTS == pytest.approx(bytes_per_element, abs=1e-3)
    assert plan.link_seconds == pytest.approx(8 * plan.bytes_per_rank / 1e8, rel=0.01)


def test_the_table_compares_with_stock_horovod() -> None:
    def row(way: str, seconds: float) -> dict[str, Any]:
        unknown = {"planned_seconds": None, "planned_bytes_per_element": None, "exchange": "two_shot"}
        measured = {"seconds": seconds, "bytes_per_element": 1.0, "error": 0.0, "over_fp32": seconds}
        return {"way": way, **measured, **unknown}

    rows = [row("fp32", 1.0), row("fp16", 0.5), row("auto 4", 0.25)]
    text = exchange.as_text({"ranks": 4, "rate": "1gbit", "idle_bytes_per_second": 1e3, "rows": rows})
    *_, auto = text.splitlines()
    assert auto.split() == ["auto", "4", "250", "1.000", "4.00", "2.00", "0", "25.0%", "two_shot"]


def test_ratios_are_taken_between_neighbours_in_time() -> None:
    """The machine was busy in the third repeat: both ways suffered, and neither is to blame."""
    assert exchange.over([1.0, 1.0, 10.0], [2.0, 2.0, 20.0]) == 0.5
    assert exchange.over([1.0, 1.0, 9.0], [1.0, 1.0, 1.0]) == 1.0


def test_a_plan_with_measured_constants_contains_what_was_measured() -> None:
    constants = Constants.measured(4, ELEMENTS, 0.003, {"encode": 0.010, "decode": 0.008})
    plan = planned("two_shot 4", 4, "none", ELEMENTS, 2**22, constants)
    assert plan is not None
    assert plan.codec_seconds == pytest.approx(0.018)
    assert plan.latency_seconds == pytest.approx(2 * 0.003)


@pytest.mark.parametrize(("rate", "meant"), [("100mbit", 10**8), ("1gbit", 10**9), ("512kbit", 512_000)])
def test_rates_are_those_of_tc(rate: str, meant: int) -> None:
    assert bits_per_second(rate) == meant
