"""Subtractive dither: receivers take away what the numbers of a rounding tell of its error."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from codec_cases import CODECS, KEY, encode, heavy_tailed, same_floats, stamp_for, uneven_levels, uniform_levels

from alq_hvd.codec.keys import stream_key
from alq_hvd.codec.native import NativeCodec
from alq_hvd.codec.strata import dither, draws_words
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.engine.options import Options
from alq_hvd.errors import ConfigurationError, WireFormatError
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.record import RecordLayout
from tests.support.exchanging import aggregate, gradient

FIRST = CODECS["reference"]


@pytest.mark.parametrize("rotate", [False, True])
def test_every_codec_gives_the_same_records_sums_and_residuals(rotate: bool) -> None:
    """Records that start anywhere, buckets of any kind, sums of several."""
    codecs = {**CODECS, "threads": NativeCodec(threads=3)}
    places = ((5000, 1000, 70_000), (3000, 1024, 0), (4097, 128, 5 * 1024), (100, 7, 2**32 - 50), (2500, 96, 3))
    for bits, (elements, bucket_size, first) in itertools.product((1, 3, 4, 8), places):
        config = QuantiserConfig(bits, bucket_size, "linf", rotate=rotate, dither=True)
        layout, levels, values = RecordLayout(elements, config), uneven_levels(2**bits), heavy_tailed(elements)
        stamps = [stamp_for(levels, rank) for rank in range(3)]
        keys = [stream_key(seed=1, step=2, rank=rank, group=4, shot=1).at(first) for rank in range(3)]
        records = [FIRST.encode(values, layout, levels, key, stamp) for key, stamp in zip(keys, stamps, strict=True)]
        expected = FIRST.decode_sum(records, layout, levels, stamps, 0.5)
        kept = np.full(elements, 1e-4, dtype=np.float32)
        owed = FIRST.encode(values, layout, levels, keys[0], stamps[0], kept)
        for name, codec in codecs.items():
            residual, where = np.full(elements, 1e-4, dtype=np.float32), (name, bits, elements)
            assert np.array_equal(codec.encode(values, layout, levels, keys[1], stamps[1]), records[1]), where
            assert same_floats(codec.decode_sum(records, layout, levels, stamps, 0.5), expected), where
            assert np.array_equal(codec.encode(values, layout, levels, keys[0], stamps[0], residual), owed), where
            assert same_floats(residual, kept), where


def test_what_is_zero_or_not_finite_stays_so() -> None:
    config, levels = QuantiserConfig(3, 100, "linf", dither=True), uniform_levels(3)
    values = heavy_tailed(1000)
    values[200:300], values[450] = 0, np.inf
    for codec in CODECS.values():
        layout, stamp = RecordLayout(1000, config), stamp_for(levels)
        decoded = codec.decode_sum([codec.encode(values, layout, levels, KEY, stamp)], layout, levels, [stamp], 1.0)
        assert not decoded[200:300].any() and np.isnan(decoded[400:500]).all()
        assert np.isfinite(decoded[:400]).all() and decoded[:200].all()


def test_the_width_is_the_gap_of_equal_gaps_and_leans_to_the_small_of_others() -> None:
    for bits in range(1, 9):
        assert uniform_levels(bits).dither == pytest.approx(2 / (2**bits - 1), rel=1e-5)
    assert Levels([-1, -0.01, 0.01, 1]).dither == pytest.approx(0.02, rel=0.05)


def test_the_dither_is_uniform_about_zero() -> None:
    words = draws_words(KEY.at(7), QuantiserConfig(3, dither=True))
    values = dither(words, 1 << 18, np.float32(0.25)).astype(np.float64)
    assert np.abs(values).max() <= 0.125 and abs(values.mean()) < 5 * 0.25 / np.sqrt(12 * 2**18)
    assert values.var() == pytest.approx(0.25**2 / 12, rel=0.01)


@pytest.mark.parametrize("levels", [uneven_levels(4), uniform_levels(2)], ids=["uneven", "uniform"])
def test_unbiased_and_of_the_variance_of_the_closed_form(levels: Levels) -> None:
    """E of the error is zero; its square is w^2 p (1 - p) - c w p (1 - p) + c^2 / 12, coordinate by coordinate."""
    codec, config, steps = CODECS["baseline"], QuantiserConfig(2, 64, "linf", dither=True), 4000
    values, layout, stamp = heavy_tailed(64), RecordLayout(64, config), stamp_for(levels)
    scale = float(np.abs(values).max())
    off = np.empty((steps, 64))
    for step in range(steps):
        key = stream_key(seed=1, step=step, rank=0, group=0, shot=1)
        record = codec.encode(values, layout, levels, key, stamp)
        off[step] = codec.decode_sum([record], layout, levels, [stamp], 1.0).astype(np.float64) - values
    table, normal = levels.values.astype(np.float64), values / scale
    lower = np.clip(np.searchsorted(table, normal, side="right") - 1, 0, 2)
    gap = table[lower + 1] - table[lower]
    p = (normal - table[lower]) / gap
    width = float(levels.dither)
    expected = scale**2 * (gap * (gap - width) * p * (1 - p) + width**2 / 12)
    assert (np.abs(off.mean(axis=0)) < 6 * np.sqrt(expected / steps) + 1e-6 * scale).all()
    assert np.square(off).mean() == pytest.approx(expected.mean(), rel=0.03)


def test_a_receiver_that_expects_no_dither_refuses_the_record() -> None:
    config, levels = QuantiserConfig(3, 64, dither=True), uniform_levels(3)
    record = encode(FIRST, heavy_tailed(1000), config, levels)
    with pytest.raises(WireFormatError, match="expected flags 0, got 8"):
        FIRST.decode_sum([record], RecordLayout(1000, replace(config, dither=False)), levels, [stamp_for(levels)], 1.0)


def test_ranks_that_share_their_draws_have_no_dither() -> None:
    config, levels = QuantiserConfig(3, 64, dither=True), uniform_levels(3)
    key = stream_key(seed=1, step=2, rank=3, group=4, shot=0, strata=8)
    for codec in CODECS.values():
        with pytest.raises(
            ConfigurationError, match="dither: expected a rank that draws for itself, got one of 8 strata"
        ):
            encode(codec, heavy_tailed(1000), config, levels, key)


def test_where_it_is_the_default() -> None:
    """In the second shot, of tables that hold no zero anyway."""
    cases: list[tuple[dict[str, Any], bool]] = [
        ({"method": "optimal"}, False),
        ({"method": "optimal", "rotate": True}, True),
        ({"method": "optimal", "zero_level": False}, True),
        ({"method": "optimal", "dither": True}, True),
        ({"method": "optimal", "rotate": True, "dither": False}, False),
        ({"method": "qsgdinf", "rotate": True}, True),
        ({"method": "eden"}, False),
    ]
    for options, expected in cases:
        chosen = Options(bits=(3, 4), **options)
        assert [chosen.quantiser(shot).dither for shot in (0, 1)] == [False, expected], options
    with pytest.raises(ConfigurationError, match="dither: eden rounds to nearest"):
        Options(method="eden", bits=3, dither=True)
    with pytest.raises(ConfigurationError, match="dither: rounding to nearest draws no random numbers"):
        QuantiserConfig(3, rotate=True, rounding="nearest", dither=True)


@pytest.mark.parametrize("options", [{"method": "optimal", "rotate": True}, {"method": "qsgdinf", "zero_level": False}])
def test_sums_of_a_two_shot_have_about_half_of_the_error(options: dict[str, Any]) -> None:
    errors = {}
    for dithered in (True, False):

        def program(ranks: LoopbackCommunicator, dithered: bool = dithered) -> bytes:
            chosen: dict[str, Any] = {**options, "dither": dithered, "bits": (8, 3), "bucket_size": 512}
            mean, _ = aggregate(ranks, 2**15, steps=2, exchange="two_shot", schedule=[0], **chosen)
            return mean.tobytes()

        first, *others = LoopbackWorld(4).run(program)
        assert all(other == first for other in others)
        exact = np.mean([gradient(rank, 2**15, step=1) for rank in range(4)], axis=0, dtype=np.float64)
        errors[dithered] = float(np.square(np.frombuffer(first, np.float32) - exact).sum())
    assert 0.45 < errors[True] / errors[False] < 0.6
