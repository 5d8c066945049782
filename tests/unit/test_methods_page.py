"""The figures in docs/explanation/methods.md are those the benchmark stored."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from alq_hvd.quantiser import methods

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "methods.md").read_text()
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


def test_the_table_of_rotation_is_the_stored_one() -> None:
    stored = json.loads((ROOT / "benchmarks" / "results" / "rotation.json").read_text())["relative_variance"]
    head, *lines = (line for line in PAGE.split("## Rotation")[1].splitlines() if line.startswith("|"))
    columns = [tuple(map(int, re.findall(r"\d+", cell))) for cell in head.split("|")[2:-1]]
    rows = [line.split("|")[1:-1] for line in lines if re.match(r"\| `[a-z_0-9]+`, (rotated|plain) \|", line)]
    assert len(rows) == 13
    for label, *cells in rows:
        name = label.strip().replace("`", "").removesuffix(", plain").replace(", rotated", "_rotated")
        for (bits, bucket_size), cell in zip(columns, cells, strict=True):
            found = [row[name] for row in stored if (row["bits"], row["bucket_size"]) == (bits, bucket_size)]
            assert float(cell) == pytest.approx(float(np.exp(np.mean(np.log(found)))), rel=6e-3)


def test_the_stored_rotation_met_its_goals_on_every_gradient() -> None:
    stored = json.loads((ROOT / "benchmarks" / "results" / "rotation.json").read_text())
    for row in stored["relative_variance"]:
        if row["bucket_size"] >= 1024:
            assert row["eden_rotated"] <= {2: 0.14, 3: 0.038, 4: 0.0100}[row["bits"]]
            assert row["bits"] != 3 or row["optimal_rotated"] <= 0.12
    for row in stored["bias"]:
        if row["rounds"] == 2 and row["size"] >= 16:
            assert row["bias"] < 2e-4
    errors = {(row["method"], row["signs"], row["ranks"]): row["error_times_ranks"] for row in stored["ranks"]}
    for kind in (("eden", "own"), ("optimal", "shared"), ("optimal", "own")):
        assert errors[(*kind, 32)] == pytest.approx(errors[(*kind, 1)], rel=0.05)
    assert errors["eden", "shared", 32] > 30 * errors["eden", "own", 32]


def test_the_costs_of_a_zero_level_are_the_stored_ones() -> None:
    page = (ROOT / "docs" / "decisions" / "0014-zeros-stay-zero.md").read_text()
    rows = json.loads((ROOT / "benchmarks" / "results" / "zeros.json").read_text())["cost"]
    lines = re.findall(r"\| `(\w+)` \| (\d) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|", page)
    assert len(lines) > 10
    for name, bits, *cells in lines:
        for bucket_size, cell in zip((64, 1024, 8192), cells, strict=True):
            (row,) = [
                row
                for row in rows
                if (row["method"], row["bits"], row["bucket_size"]) == (name, int(bits), bucket_size)
            ]
            ratios = [row[f"{kind}_with"] / row[f"{kind}_without"] for kind in ("real", "normal")]
            assert cell == "{:.2f} ({:.2f})".format(*ratios), (name, bits, bucket_size)
