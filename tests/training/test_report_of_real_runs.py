"""The page about real trainings on 1 and 2 ranks holds what these trainings recorded."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from images.launch import run_on_ranks

from alq_hvd import cli
from alq_hvd.machine import describe
from tests.unit.test_report import Page

TRAIN_IMAGES = Path(__file__).parents[2] / "examples" / "train_images.py"
TINY = "--train-images 256 --test-images 100 --epochs 2 --batch-size 32 --adapt-at 0 3 --log-every 1 --no-progress"

pytestmark = [pytest.mark.multirank, pytest.mark.training, pytest.mark.timeout(600)]


def train(output: Path, ranks: int, method: str) -> dict[str, Any]:
    program = [str(TRAIN_IMAGES), "--output", str(output), *shlex.split(f"{TINY} --compression {method}")]
    if ranks == 1:
        subprocess.run([sys.executable, *program], check=True, timeout=250, capture_output=True)
    else:
        run_on_ranks(ranks, program, output / "log.txt", timeout=250)
    result: dict[str, Any] = json.loads((output / "result.json").read_text())
    return result


def test_a_sweep_of_real_runs_becomes_a_page(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    results = {
        ("fp32", 1): train(sweep / "fp32-1", 1, "fp32"),
        ("fp32", 2): train(sweep / "fp32-2", 2, "fp32"),
        ("alq 3 bits", 2): train(sweep / "alq-2", 2, "alq --bits 3 --exchange two_shot"),
    }
    assert cli.main(["report", str(sweep), "-o", str(tmp_path / "page.html")]) == 0
    page = Page((tmp_path / "page.html").read_text())
    base = results["fp32", 1]["examples_per_second"]
    for (method, ranks), result in results.items():
        speed = result["examples_per_second"]
        assert speed == pytest.approx(32 / sum(result["seconds_per_step"].values()))
        row = page.row("scaling", method, f"1 × {ranks}", str(ranks))
        assert row["speed-up"] == f"{speed / base:.2f}"
        assert row["efficiency"] == f"{100 * speed / base / ranks:.1f} %"
        assert page.row("accuracy", method, f"1 × {ranks}")["accuracy"] == f"{100 * result['test_accuracy']:.2f} %"
    alq = results["alq 3 bits", 2]
    assert page.row("traffic", "alq 3 bits")["bytes sent per step and rank"] == f"{alq['bytes_per_step']:,.0f}"
    assert len(alq["adaptations"]) == len(alq["later_shots"][0]["adaptations"]) == 2
    assert "2 ranks, shot 2: 2 adaptations" in page.text
    assert "figure-levels-1" in page.figures
    # Where it ran, from every rank of it.
    own = describe()
    assert [node["ranks"] for node in alq["nodes"]] == [[0, 1]]
    assert any(row[0] == own["host"] and row[1] == own["processor"] for row in page.tables["machine"])
    assert alq["software"]["horovod controller"] in ("MPI", "Gloo")
    assert ["torch", own["software"]["torch"]] in page.tables["machine"]
    assert alq["options"]["exchange"] == alq["exchange"] == "two_shot"
    assert "no data: alq 3 bits at 1 ranks" in page.text
