"""``alq-hvd plan``: a table to read, the same as JSON, and a remedy for every option that makes no sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alq_hvd import cli
from tests.support.cases import each

Capture = pytest.CaptureFixture[str]
CLUSTER = ("--parameters", "25.6e6", "--ranks", "32", "--ranks-per-node", "8", "--link", "25gbit")


def answer(capsys: Capture, *arguments: str) -> dict[str, Any]:
    assert cli.main(["plan", *arguments, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def row(document: dict[str, Any], exchange: str, bits: list[int]) -> dict[str, Any]:
    (found,) = [row for row in document["rows"] if row["exchange"] == exchange and row["bits"] == bits]
    return found


def test_the_table_shows_every_exchange_and_marks_the_recommended_one(capsys: Capture) -> None:
    assert cli.main(["plan", *CLUSTER]) == 0
    printed = capsys.readouterr().out
    for name in ("Horovod fp32", "Horovod fp16", "allgather", "two_shot", "hierarchical"):
        assert name in printed
    (marked,) = [line for line in printed.splitlines() if line.startswith("* ")]
    assert "hierarchical" in marked
    assert 'Recommended: bits=(4, 8), exchange="hierarchical"' in printed


def test_the_fastest_way_within_the_tolerated_error_is_recommended(capsys: Capture) -> None:
    fastest = []
    for error in (0.0, 0.01, 0.05, 1.0):
        document = answer(capsys, *CLUSTER, "--error", str(error))
        best = document["rows"][document["recommended"]]
        assert best["mean_error"] <= error
        within = [row["seconds"] for row in document["rows"] if row["mean_error"] <= error]
        assert best["seconds"] == min(within), error
        fastest.append(best["seconds"])
    assert fastest == sorted(fastest, reverse=True)
    assert fastest[0] > 1.5 * fastest[1] > 1.5 * fastest[3]


def test_codecs_by_name_and_by_measurement(capsys: Capture) -> None:
    options = (*CLUSTER, "--bits", "4")

    def codec_seconds(*more: str) -> float:
        return float(row(answer(capsys, *options, *more), "two_shot", [4, 4])["codec_seconds"])

    cpu, h100, h200, measured = (codec_seconds("--codec", name) for name in ("cpu", "h100", "h200", "measured"))
    assert cpu == pytest.approx(25.6e6 * (1 + 1 / 32 + 2) / 1e9)
    assert h200 < h100 < cpu / 100
    assert measured > h100
    assert codec_seconds("--codec", "h100", "--decode-speed", "1e9") == pytest.approx(2 * 25.6e6 / 1e9, rel=0.01)
    assert codec_seconds("--codec", "h100", "--method", "eden") > h100


def test_ranks_that_round_together_leave_less_of_the_error(capsys: Capture) -> None:
    """Of unrelated gradients that look normal: what the formula says of their levels' gaps."""
    options = ("--parameters", "1e6", "--link", "1gbit", "--bits", "3", "--method", "optimal")
    one, many = (
        row(answer(capsys, *options, "--ranks", ranks), "allgather", [3])["mean_error"] for ranks in ("1", "32")
    )
    assert 0.5 < many / one < 0.65


def test_figures_follow_the_formulas(capsys: Capture) -> None:
    document = answer(capsys, "--parameters", "1e6", "--ranks", "4", "--link", "100mbit", "--bucket-size", "512")
    assert row(document, "fp32", [])["bytes_per_rank"] == 6_000_000
    assert row(document, "allgather", [4])["bytes_per_rank"] == 1_523_438
    assert row(document, "two_shot", [4, 4])["bytes_per_rank"] == 761_719
    fp32 = row(document, "fp32", [])
    assert fp32["seconds"] == pytest.approx(0.48 + 4 * 25e-6)
    assert fp32["mean_error"] == 0
    assert row(document, "two_shot", [4, 8])["mean_error"] < row(document, "two_shot", [4, 4])["mean_error"]
    assert row(document, "two_shot", [4, 8])["mean_error"] < 1.2 * row(document, "allgather", [4])["mean_error"]


def test_thousands_of_ranks(capsys: Capture) -> None:
    document = answer(capsys, "--parameters", "1e9", "--ranks", "8192", "--ranks-per-node", "8", "--link", "1gbit")
    best = document["rows"][document["recommended"]]
    assert best["exchange"] == "hierarchical"
    inside = row(document, "hierarchical", [4, 4])
    assert inside["accumulator"] == inside["cheapest_accumulator"] == "bf16"  # of eight ranks inside a node
    assert row(document, "two_shot", [4, 4])["cheapest_accumulator"] == "fp32"  # of all 8192
    assert row(document, "fp16", [])["cheapest_accumulator"] == "fp32"


def test_a_gradient_of_the_users_own_gives_the_first_shots_variance(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "gradient.npy"
    spiky = np.random.default_rng(0).standard_normal(40_000).astype(np.float32) ** 5
    np.save(path, spiky)
    options = ("--parameters", "1e6", "--ranks", "4", "--link", "1gbit", "--bits", "3")
    normal = row(answer(capsys, *options), "allgather", [3])["mean_error"]
    own = row(answer(capsys, *options, "--gradient", str(path)), "allgather", [3])["mean_error"]
    assert own > 1.5 * normal


@each(
    ("options", "message"),
    [
        (("--link", "fast"), "link: expected a rate such as 25gbit or 100mbit, got 'fast'"),
        (("--ranks", "0"), "--ranks: expected a whole number from 1"),
        (("--ranks-per-node", "5"), "ranks per node: expected a divisor of 32 ranks, got 5"),
        (("--bits", "4,8,8"), "--bits: expected widths such as 4 or 4,8, got '4,8,8'"),
        (("--bits", "9"), "bits: alq is defined at 1 to 8 bits, got 9"),
        (("--error", "-1"), "--error: expected a number from 0"),
        (("--fusion-elements", "0"), "--fusion-elements: expected"),
        (("--coherence", "1.5"), "--coherence: expected a number from 0"),
        (("--gradient", "nowhere.npy"), "nowhere.npy: no such file"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options: tuple[str, ...], message: str, capsys: Capture) -> None:
    assert cli.main(["plan", *CLUSTER, *options]) == 2
    assert message in capsys.readouterr().err


def test_adaptive_widths_err_less_on_a_sparse_gradient(tmp_path: Path, capsys: Capture) -> None:
    values = np.random.default_rng(0).standard_normal(2**15).astype(np.float32)
    values[: 2**14] = 0
    np.save(tmp_path / "half.npy", values)
    asked = (*CLUSTER, "--method", "eden", "--gradient", str(tmp_path / "half.npy"))
    uniform = row(answer(capsys, *asked, "--bits", "3"), "allgather", [3])
    adaptive = answer(capsys, *asked, "--bits", "1.5", "3", "--widths", "adaptive")
    less, same = (row(adaptive, "allgather", [bits]) for bits in (1.5, 3))  # type: ignore[list-item]
    assert less["mean_error"] == pytest.approx(uniform["mean_error"], rel=0.1)
    assert less["bytes_per_rank"] < 0.55 * uniform["bytes_per_rank"]
    assert same["mean_error"] < 0.1 * uniform["mean_error"]
