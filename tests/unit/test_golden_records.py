"""The bytes of the wire format: what this version writes, every version of the same wire format must write."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
from codec_cases import CODECS

from tests.support.cases import each


def load_maker() -> ModuleType:
    path = Path(__file__).parents[1] / "golden" / "make_records.py"
    spec = importlib.util.spec_from_file_location("make_records", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = load_maker()
CASES = {path.stem: (path, *rest) for path, *rest in MAKER.cases()}


@each("codec", CODECS.values())
@each("case", CASES.values())
def test_golden_record(codec, case) -> None:  # type: ignore[no-untyped-def]
    path, layout, levels, stamp = case
    golden = np.frombuffer(path.read_bytes(), np.uint8)
    assert np.array_equal(MAKER.encoded(codec, layout, levels, stamp), golden)
    decoded = codec.decode_sum([golden], layout, levels, [stamp], 1.0)
    values = MAKER.gradient()
    assert np.isnan(decoded[500:600]).all() and not decoded[300:400].any()
    finite = np.isfinite(decoded)
    assert finite.sum() == len(values) - 100
    if layout.quantiser.rotate:
        lost = np.where(finite, decoded - values, 0).reshape(-1, 100).astype(np.float64)
        sent = np.where(finite, values, 0).reshape(-1, 100).astype(np.float64)
        assert (np.square(lost).sum(axis=1) <= 2 * np.square(sent).sum(axis=1)).all()  # not noise, bucket by bucket
    elif layout.quantiser.clip is None:
        scale = np.repeat(layout.norms(golden), 100)[finite]
        gap = np.diff(levels.values).max() + layout.quantiser.dither * levels.dither / 2
        assert (np.abs(decoded - values)[finite] <= scale * gap * 1.0001).all()


def test_golden_record_of_widths() -> None:
    for path, layout, tables, stamp in MAKER.wide_cases():
        golden = np.frombuffer(path.read_bytes(), np.uint8)
        values, kept = MAKER.wide_gradient(), layout.widths(golden)
        assert kept.max() > kept[kept > 0].min() and (kept == 0).any(), path.name
        results = []
        for name, codec in CODECS.items():
            assert np.array_equal(MAKER.encoded(codec, layout, tables, stamp), golden), (path.name, name)
            results.append(codec.decode_sum([golden], layout, tables, [stamp], 1.0))
            assert np.isnan(results[-1][8000]), (path.name, name)
            assert not results[-1][4096:5120].any(), (path.name, name)
            assert np.array_equal(results[-1], results[0], equal_nan=True), (path.name, name)
        finite = np.isfinite(results[0])
        loudest = np.arange(len(values)) >= 7500
        error = np.square((results[0] - values)[finite & loudest].astype(np.float64)).sum()
        assert error < np.square(values[finite & loudest].astype(np.float64)).sum(), path.name


def test_inputs_are_the_ones_the_files_were_made_of() -> None:
    """If this fails and the bytes differ, the inputs changed and not the codec."""
    assert (
        hashlib.sha256(MAKER.gradient().tobytes()).hexdigest()
        == "3c55602c3d38d6f1147d8dd0783789bab1968bc55a02ca76d643adb38ffdb46f"
    )
