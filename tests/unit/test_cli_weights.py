"""``alq-hvd weights`` tells what every scheme does to a saved model, and what is wrong with a file that is none."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from alq_hvd.cli import main
from alq_hvd.weights import quantize_weights, schemes


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 10))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_every_scheme_and_layer_is_in_the_table(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", str(saved), "--scheme", "laq", "--bits", "4"]) == 0
    printed = capsys.readouterr().out
    assert "2 weights of two or more dimensions, 536 numbers, 2,144 bytes as float32" in printed
    assert printed.count(" <\n") == 3  # in both layers and in the sums
    for name in schemes.NAMES:
        assert printed.count(f" {name:<8}") == 3, name


def test_json_has_the_numbers_of_the_solvers(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", str(saved), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows: dict[Any, Any] = {(row["name"], row["scheme"]): row for row in document["layers"]}
    assert len(rows) == 2 * len(schemes.NAMES)
    weight = torch.load(saved)["3.weight"]
    made = schemes.scheme("laq", 3)
    row = rows["3.weight", "laq"]
    assert row["scales"] == pytest.approx([made.solve(weight, None).item()])
    quantised = made.quantise(weight, made.solve(weight, None))
    assert row["relative_error"] == pytest.approx(float((weight - quantised).square().sum() / weight.square().sum()))
    assert (row["bits"], row["code_bytes"], len(row["values"]), row["used"]) == (3, 320 * 3 // 8 + 4, 7, 7)
    assert rows["3.weight", "lab"]["relative_error"] > rows["3.weight", "laq"]["relative_error"]
    assert len(rows["3.weight", "lq_net"]["scales"]) == 10 * 3


def test_checkpoints_of_other_shapes(tmp_path: Path, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": torch.load(saved), "step": 3}, tmp_path / "nested.pt")
    assert main(["weights", str(tmp_path / "nested.pt")]) == 0
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    quantize_weights(model, skip=("1",))
    torch.save(model.state_dict(), tmp_path / "tied.pt")
    capsys.readouterr()
    assert main(["weights", str(tmp_path / "tied.pt")]) == 0
    printed = capsys.readouterr().out
    assert "2 weights" in printed
    assert "0.parametrizations.weight.original" in printed


def test_the_picture_is_drawn(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "weights.png"
    assert main(["weights", str(saved), "--plot", str(picture)]) == 0
    assert f"plot: {picture}" in capsys.readouterr().out
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    assert (width, height) == (1012, 352)
    assert main(["weights", str(saved), "--plot", str(tmp_path / "weights.xyz")]) == 2
    assert "--plot" in capsys.readouterr().err


def test_bad_input_is_one_line(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.pt").write_text("no model")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"bias": torch.ones(3), "count": torch.ones(2, 2, dtype=torch.int64)}, tmp_path / "small.pt")
    torch.save({"w": torch.full((2, 2), float("nan"))}, tmp_path / "nan.pt")
    torch.save({"w": torch.ones(2, 2).to_sparse()}, tmp_path / "sparse.pt")
    for name, more, message in (
        ("missing.pt", [], "no such file"),
        ("text.pt", [], "expected a state_dict"),
        ("list.pt", [], "expected a state_dict, got list"),
        ("small.pt", [], "expected floats of two or more dimensions, found none"),
        ("nan.pt", [], "w: 4 of 4 weights are NaN or infinite"),
        ("sparse.pt", [], "w: expected a dense weight"),
        ("model.pt", ["--scheme", "twn"], "scheme: expected one of lab, laq"),
        ("model.pt", ["--bits", "1"], "laq is defined at 2 to 8 bits, got 1"),
    ):
        assert main(["weights", str(tmp_path / name), *more]) == 2, name
        error = capsys.readouterr().err
        assert message in error, (name, error)
        assert error.count("\n") == 1, error
