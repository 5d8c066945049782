"""The figures in docs/methods.md are those the benchmark stored."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from alq_hvd import methods

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "methods.md").read_text()
STORED = json.loads((ROOT / "benchmarks" / "results" / "levels.json").read_text())


def stored_mean(bits: int, bucket_size: int, name: str) -> float:
    rows = [row for row in STORED["relative_variance"] if (row["bits"], row["bucket_size"]) == (bits, bucket_size)]
    return float(np.exp(np.mean([np.log(row[name]) for row in rows])))


def test_the_table_is_the_stored_one() -> None:
    head = next(line for line in PAGE.splitlines() if line.startswith("| method | 2 bits"))
    columns = [tuple(map(int, re.findall(r"\d+", cell))) for cell in head.split("|")[2:-1]]
    lines = [line.split("|")[1:-1] for line in PAGE.splitlines() if re.match(r"\| `[a-z_0-9]+` \|", line)]
    assert len(lines) > 10
    for name, *cells in lines:
        for (bits, bucket_size), cell in zip(columns, cells, strict=True):
            assert float(cell) == pytest.approx(stored_mean(bits, bucket_size, name.strip(" `")), rel=6e-3)


def test_the_stored_run_met_the_goals() -> None:
    assert all(row["median"] < row["goal"] for row in STORED["solve_ms"] if row["goal"] is not None)
    for row in STORED["relative_variance"]:
        assert row["optimal"] <= 1.005 * row["best_linf"] and row["optimal_l2"] <= 1.005 * row["best_l2"]


def test_ratios_in_the_text() -> None:
    published, converged, optimal = (stored_mean(3, 8192, name) for name in ("alq_published", "alq", "optimal"))
    assert converged / published == pytest.approx(2.7, abs=0.1)
    assert optimal / published == pytest.approx(0.38, abs=0.01)
    assert optimal / converged == pytest.approx(1 / 7, rel=0.06)


def test_every_method_has_its_place_on_the_page() -> None:
    assert all(f"`{name}`" in PAGE for name in methods.NAMES)
