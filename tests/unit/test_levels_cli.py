"""``alq-hvd levels``: exact numbers for a gradient somebody dumped, and a remedy for every file that is none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alq_hvd import cli
from alq_hvd.cli.levels import CHOICES
from alq_hvd.codec import measurement
from alq_hvd.quantiser import methods, theory
from tests.support.cases import each
from tests.support.real_gradient import real_gradient, relative_variance

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "gradient.npy"
    np.save(path, real_gradient()[:40_000].reshape(400, 100))
    return path


def answer(capsys: Capture, *arguments: object) -> dict[str, Any]:
    assert cli.main(["levels", *map(str, arguments), "--json"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


@each("bits", [2, 3, 4])
@each("norm", ["l2", "linf"])
def test_the_variance_is_exact_over_all_coordinates_the_short_last_bucket_included(
    dump: Path, capsys: Capture, bits: int, norm: str
) -> None:
    gradient = real_gradient()[:40_000]
    for bucket_size in (64, 8192, 39_999, 40_000, 50_000):
        found = answer(capsys, dump, "--bits", bits, "--bucket-size", bucket_size, "--norm", norm, "--draws", 0)
        expected = relative_variance(gradient, bucket_size, norm, np.array(found["levels"]))
        assert found["relative_variance"] == pytest.approx(expected, rel=1e-5)
        buckets = -(-40_000 // bucket_size)
        assert found["bytes_fixed"] == -(-40_000 * bits // 8) + 4 * buckets


def test_the_object_says_what_was_asked_and_lists_every_other_method(dump: Path, capsys: Capture) -> None:
    found = answer(capsys, dump, "--bits", 3, "--bucket-size", 1024, "--draws", 0)
    assert (found["method"], found["bits"], found["bucket_size"], found["norm"]) == ("optimal", 3, 1024, "linf")
    assert len(found["levels"]) == 8 and found["levels"] == sorted(found["levels"])
    assert found["elements"] == 40_000 and found["bytes_float32"] == 160_000
    assert found["objective_after"] < found["objective_before"]
    others = {row["method"]: row for row in found["methods"]}
    assert set(others) == set(CHOICES) - {"optimal"}
    assert all(row["relative_variance"] > found["relative_variance"] for row in others.values() if row["clip"] is None)
    assert others["terngrad"]["bits"] == 2 and others["terngrad"]["levels"] == [-1, 0, 1]
    assert others["qsgd"]["objective_before"] is None


def test_entropy_is_that_of_the_codes_and_an_ideal_coder_is_smaller(dump: Path, capsys: Capture) -> None:
    found = answer(capsys, dump, "--method", "terngrad", "--bucket-size", 500, "--clip", "inf", "--draws", 0)
    rows = real_gradient()[:40_000].reshape(-1, 500).astype(np.float64)
    nonzero = np.abs(rows) / np.abs(rows).max(axis=1, keepdims=True)
    shares = [nonzero[rows < 0].sum() / 40_000, nonzero[rows > 0].sum() / 40_000]
    assert found["entropy_bits"] == pytest.approx(theory.entropy_bits([*shares, 1 - sum(shares)]), rel=1e-4)
    assert found["bytes_ideal"] == theory.bytes_ideal(40_000, found["entropy_bits"], 500) < found["bytes_fixed"]


def test_drawing_from_the_codec_agrees_with_the_closed_form(dump: Path, capsys: Capture) -> None:
    found = answer(capsys, dump, "--bucket-size", 512, "--draws", 16)
    assert found["relative_variance_sampled"] == pytest.approx(found["relative_variance"], rel=0.02)
    again = answer(capsys, dump, "--bucket-size", 512, "--draws", 16, "--seed", 1)
    assert again["relative_variance_sampled"] != found["relative_variance_sampled"]


def test_clipping_counts_its_bias_and_happens_before_the_norm_is_taken(tmp_path: Path, capsys: Capture) -> None:
    """Section 9: the original order. Ternary levels, one bucket: E error = S |c|_1 - |c|_2^2 + |g - c|_2^2."""
    gradient = real_gradient()[:1000].astype(np.float64)
    path = tmp_path / "g.npy"
    np.save(path, gradient)
    found = answer(capsys, path, "--method", "terngrad", "--bucket-size", 1000, "--draws", 0)
    limit = 2.5 * gradient.std()
    clipped = np.clip(gradient, -limit, limit)
    error = limit * np.abs(clipped).sum() - clipped @ clipped + (gradient - clipped) @ (gradient - clipped)
    assert found["relative_variance"] == pytest.approx(error / (gradient @ gradient), rel=1e-4)


def test_zero_level_and_free_ends_are_served(dump: Path, capsys: Capture) -> None:
    assert 0.0 in answer(capsys, dump, "--zero-level", "--draws", 0)["levels"]
    free = answer(capsys, dump, "--norm", "l2", "--free-ends", "--draws", 0)
    assert free["levels"][0] > -1
    assert free["relative_variance"] < answer(capsys, dump, "--norm", "l2", "--draws", 0)["relative_variance"]


def test_gradients_larger_than_a_chunk_are_measured_alike(
    dump: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = answer(capsys, dump, "--bucket-size", 600, "--draws", 0)
    monkeypatch.setattr(measurement, "CHUNK", 1000)
    parts = answer(capsys, dump, "--bucket-size", 600, "--draws", 0)
    assert parts["relative_variance"] == pytest.approx(whole["relative_variance"], rel=1e-9)
    assert parts["entropy_bits"] == pytest.approx(whole["entropy_bits"], rel=1e-9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_coordinate_is_lossless(tmp_path: Path, capsys: Capture, dtype: type) -> None:
    """Pitfall 6: bucket size 1, or a gradient of one coordinate."""
    np.save(tmp_path / "g.npy", np.array([-0.25], dtype=dtype))
    found = answer(capsys, tmp_path / "g.npy", "--method", "qsgd")
    assert found["relative_variance"] == 0 == found["relative_variance_sampled"]
    assert found["entropy_bits"] == 0


def test_text_is_one_table_of_all_methods(dump: Path, capsys: Capture) -> None:
    assert cli.main(["levels", str(dump), "--bits", "3", "--draws", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{dump}: 40,000 coordinates")
    assert any(line.startswith("optimal, 3 bits, linf norm, buckets of 1024") for line in lines)
    rows = [line.split() for line in lines if line.split()[:1] and line.split()[0] in CHOICES and "bits," not in line]
    assert {row[0] for row in rows} == set(CHOICES)
    variances = [float(row[3]) for row in rows]
    assert variances == sorted(variances)


def test_rotation_is_reported_beside_the_others(dump: Path, capsys: Capture) -> None:
    found = answer(capsys, dump, "--rotate", "--bits", 3, "--bucket-size", 8192, "--draws", 2)
    assert found["rotate"] is True and found["relative_variance"] <= 0.12
    rows = {(row["method"], row["rotate"]): row for row in found["methods"]}
    assert set(rows) == {(name, False) for name in CHOICES} | {(name, True) for name in (*CHOICES, "eden")} - {
        ("optimal", True)
    }
    assert rows["eden", True]["relative_variance"] <= 0.038
    assert rows["alq", True]["relative_variance"] < rows["alq", False]["relative_variance"]
    plain = answer(capsys, dump, "--bucket-size", 8192, "--draws", 0)
    assert plain["rotate"] is False and {row["method"] for row in plain["methods"]} == set(CHOICES) - {"optimal"}


@each(("bits", "limit"), [(2, 0.14), (3, 0.038), (4, 0.0100)])
@each("kind", ["real", "normal", "one-hot", "two-hot", "sparse", "short"])
def test_eden_is_as_good_on_any_gradient(kind: str, bits: int, limit: float) -> None:
    """As the command measures it, which the test of rotation above shows; without the table of all other methods."""
    generator = np.random.default_rng(0)
    gradient = np.zeros(20_000, dtype=np.float32)
    if kind == "real":
        gradient = real_gradient()[:40_000]
    elif kind == "normal":
        gradient = generator.standard_normal(20_000).astype(np.float32)
    elif kind == "short":
        gradient = (generator.standard_t(2, 1500) * 1e-4).astype(np.float32)
    else:
        places = {"one-hot": [70], "two-hot": [70, 8000], "sparse": generator.choice(20_000, 40, replace=False)}[kind]
        gradient[places] = generator.standard_normal(len(places)) if kind == "sparse" else 1.0
    eden = methods.method("eden", bits=bits)
    for bucket_size in (1024, 8192):
        config = eden.quantiser(bits, bucket_size)
        levels = measurement.fit(gradient, eden, config).levels
        assert measurement.measure(gradient, config, levels, draws=16).sampled <= limit
        assert config.rotate is True and config.norm == "l2"


def test_the_closed_form_of_rotated_coordinates_agrees_with_draws(tmp_path: Path, capsys: Capture) -> None:
    """Lengths change by a half where a block is an odd power of two, as 8192 is, and by a quarter in such tails."""
    np.save(tmp_path / "g.npy", real_gradient()[:30_000])
    for bucket_size in (1024, 8192, 11_000):
        found = answer(capsys, tmp_path / "g.npy", "--rotate", "--method", "qsgdinf", "--bucket-size", bucket_size)
        assert found["relative_variance_sampled"] == pytest.approx(found["relative_variance"], rel=0.1)


def test_plot_is_a_picture(dump: Path, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "levels.png"
    for extra in ([], ["--free-ends", "--norm", "l2"], ["--method", "terngrad"]):
        assert cli.main(["levels", str(dump), "--draws", "0", "--plot", str(picture), *extra]) == 0
        assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and picture.stat().st_size > 10_000
        picture.unlink()
    assert cli.main(["levels", str(dump), "--draws", "0", "--plot", str(tmp_path / "levels.xyz")]) == 2
    assert "levels.xyz" in capsys.readouterr().err


def test_without_matplotlib_only_the_plot_is_refused(
    dump: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["levels", str(dump), "--draws", "0"]) == 0
    assert cli.main(["levels", str(dump), "--draws", "0", "--plot", "x.png"]) == 2
    assert "--plot needs matplotlib: pip install" in capsys.readouterr().err


def saved(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


@each(
    ("make", "message"),
    [
        (lambda p: p, "no such file"),
        (lambda p: p.parent, "expected a .npy file of floats"),
        (lambda p: (p.write_bytes(b"not an array"), p)[1], "expected a .npy file of floats"),
        (lambda p: (p.write_bytes(b""), p)[1], "expected a .npy file of floats"),
        (lambda p: saved(p, np.arange(8)), "expected floats, got int64"),
        (lambda p: saved(p, np.ones(3, dtype=complex)), "expected floats, got complex128"),
        (lambda p: saved(p, np.zeros((0, 4))), "the array is empty, shape (0, 4)"),
        (lambda p: saved(p, np.zeros(7)), "all 7 coordinates are zero"),
        (lambda p: saved(p, np.array([1, np.nan, np.inf])), "2 of 3 coordinates are NaN or infinite"),
        (lambda p: saved(p, np.array([1e300, 1.0])), "1 of 2 coordinates are NaN or infinite (as float32)"),
        (lambda p: saved(p, np.full(8, 3e38)), "beyond float32: scale the gradient down"),
    ],
)
def test_a_file_that_can_not_be_used_is_refused_with_the_reason(
    tmp_path: Path, capsys: Capture, make: Any, message: str
) -> None:
    """Pitfall 2 among them: a gradient that is not finite is never fitted."""
    path = make(tmp_path / "g.npy")
    assert cli.main(["levels", str(path), "--norm", "l2"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and "Traceback" not in printed.err and printed.out == ""


def test_an_archive_is_not_an_array(tmp_path: Path, capsys: Capture) -> None:
    np.savez(tmp_path / "g.npz", a=np.ones(3))
    assert cli.main(["levels", str(tmp_path / "g.npz")]) == 2
    assert "expected one array, got an .npz archive" in capsys.readouterr().err


@each(
    ("options", "message"),
    [
        (["--bits", "9"], "optimal is defined at 1 to 8 bits, got 9"),
        (["--method", "terngrad", "--bits", "3"], "terngrad is defined at 2 bits only, got 3"),
        (["--bucket-size", "0"], "bucket_size: expected an integer from 1"),
        (["--method", "qsgd", "--free-ends"], "free_ends: qsgd takes False"),
        (["--clip", "-1"], "clip: expected a positive number"),
    ],
)
def test_an_option_that_can_not_work_is_refused(dump: Path, capsys: Capture, options: list[str], message: str) -> None:
    assert cli.main(["levels", str(dump), *options]) == 2
    assert message in capsys.readouterr().err


def test_adaptive_widths_are_served_for_every_method_that_has_them(tmp_path: Path, capsys: Capture) -> None:
    values = np.random.default_rng(0).standard_normal(2**14).astype(np.float32)
    values[: 2**13] = 0
    np.save(tmp_path / "half.npy", values)
    arguments = ["levels", str(tmp_path / "half.npy"), "--method", "eden", "--widths", "adaptive", "--draws", "1"]
    assert cli.main([*arguments, "--bits", "1.5", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["bits"], document["widths"]) == (1.5, "adaptive")
    assert 0.03 < document["relative_variance"] < 0.04, "3 bits for the half that is not zero"
    assert list(document["variance_by_width"]) == [str(bits) for bits in range(1, 9)]
    assert "terngrad" not in {row["method"] for row in document["methods"]}
    assert cli.main([*arguments, "--bits", "1.5", "--plot", str(tmp_path / "a.png")]) == cli.ERROR_STATUS
    assert "one table of levels to draw" in capsys.readouterr().err
    assert cli.main(["levels", str(tmp_path / "half.npy"), "--bits", "1.5"]) == cli.ERROR_STATUS
    assert "widths='adaptive'" in capsys.readouterr().err
