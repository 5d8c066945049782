"""Rotated records: the same bytes from every codec, and the promises that hold without the rotation."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from codec_cases import (
    CODECS,
    KEY,
    NATIVE,
    decode,
    encode,
    heavy_tailed,
    round_trip,
    same_floats,
    stamp_for,
    uneven_levels,
    uniform_levels,
)

from alq_hvd.codec.base import Codec
from alq_hvd.codec.keys import stream_key
from alq_hvd.codec.native import NativeCodec
from alq_hvd.codec.rotation import rotate_values_back
from alq_hvd.errors import ConfigurationError, WireFormatError
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.policies.lloyd_max import lloyd_max
from alq_hvd.quantiser.record import HEADER, RecordLayout, Stamp, seal
from tests.support.cases import each

REFERENCE = CODECS["reference"]
every_codec = each("codec", CODECS.values())
kinds = each("kind", ["l2", "linf", "nearest"])


def config_of(kind: str, bits: int, bucket_size: int, clip: float | None = None) -> QuantiserConfig:
    if kind == "nearest":
        return QuantiserConfig(bits, bucket_size, "l2", clip, rotate=True, rounding="nearest")
    return QuantiserConfig(bits, bucket_size, kind, clip, rotate=True)


def levels_of(kind: str, bits: int) -> Levels:
    return lloyd_max(bits) if kind == "nearest" else uniform_levels(bits)


def gradient(elements: int, bucket_size: int, seed: int) -> np.ndarray:
    values = heavy_tailed(elements, seed)
    values[bucket_size : 2 * bucket_size] = 0
    values[3 * bucket_size : 3 * bucket_size + 1] = np.nan
    return values


@kinds
@each("clip", [None, 2.5])
def test_native_gives_the_bytes_of_the_reference(kind: str, clip: float | None) -> None:
    lengths = (0, 1, 31, 33, 511, 512, 513, 1023, 1025, 4096, 5000, 20_000)
    for bits, (seed, elements) in itertools.product(range(1, 9), enumerate(lengths)):
        bucket_size = (1, 7, 64, 100, 512, 8192, 2048)[seed % 7]
        levels = uneven_levels((2**bits, max(2, 2**bits - 1), 2)[seed % 3], seed)
        values, config = gradient(elements, bucket_size, seed), config_of(kind, bits, bucket_size, clip)
        expected = encode(REFERENCE, values, config, levels)
        decoded = decode(REFERENCE, expected, elements, config, levels)
        for name, native in NATIVE.items():
            case = (name, bits, elements, bucket_size, len(levels))
            assert np.array_equal(expected, encode(native, values, config, levels)), case
            assert same_floats(decoded, decode(native, expected, elements, config, levels)), case


@kinds
def test_sums_of_records_of_several_ranks(kind: str) -> None:
    """Blocks of every length, chunks that start anywhere, own signs and shared ones, in runs and apart."""
    levels = levels_of(kind, 3)
    for bucket_size in (1, 3, 8, 16, 17, 32, 96, 128, 256, 257, 1000, 1024, 3000, 4096, 8192, 2**15):
        elements = 40_007 if bucket_size > 100 else 2007
        layout = RecordLayout(elements, config_of(kind, 3, bucket_size))
        records, stamps = [], []
        for rank in (0, 0, 1, 2, 1):
            key = stream_key(seed=1, step=2 + (rank == 2), rank=rank, group=4, shot=0).at(bucket_size * 3)
            values = gradient(elements, bucket_size, rank)
            stamps.append(Stamp(levels.digest, 2, rank))
            records.append(REFERENCE.encode(values, layout, levels, key, stamps[-1]))
            for name, native in NATIVE.items():
                again = native.encode(values, layout, levels, key, stamps[-1])
                assert np.array_equal(records[-1], again), (name, bucket_size, rank)
        expected = REFERENCE.decode_sum(records, layout, levels, stamps, 1 / 3)
        for name, native in NATIVE.items():
            got = native.decode_sum(records, layout, levels, stamps, 1 / 3)
            assert same_floats(expected, got), (name, bucket_size)


@kinds
def test_statistics_are_those_of_the_rotated_coordinates(kind: str) -> None:
    for bucket_size in (100, 512, 8192):
        values, config = gradient(20_011, bucket_size, 0), config_of(kind, 3, bucket_size)
        expected = REFERENCE.statistics(values, config, 2)
        for codec, native in NATIVE.items():
            got, case = native.statistics(values, config, 2), f"{codec}, bucket_size {bucket_size}"
            for name in ("coordinates", "zero_buckets", "non_finite_buckets"):
                assert getattr(expected, name) == getattr(got, name), f"{case}, {name}"
            for name in ("mass", "first_moment", "second_moment", "pooled_sum", "pooled_squares", "buckets"):
                np.testing.assert_allclose(
                    getattr(got, name), getattr(expected, name), rtol=1e-9, atol=1e-12, err_msg=f"{case}, {name}"
                )


def test_statistics_see_normal_coordinates_where_the_gradient_is_heavy_tailed() -> None:
    """Share of the squares in coordinates beyond three deviations: 3 % of a normal's, ten times that of these."""
    values = heavy_tailed(2**16)
    shares = []
    for rotate in (False, True):
        statistics = REFERENCE.statistics(values, QuantiserConfig(3, 4096, "l2", rotate=rotate), 0)
        mean = np.divide(statistics.first_moment, statistics.mass, where=statistics.mass > 0,
                         out=np.zeros_like(statistics.mass))  # fmt: skip
        squares = statistics.mass * mean**2
        shares.append(squares[np.abs(mean) > 3 / np.sqrt(4096)].sum() / squares.sum())
    assert shares[0] > 0.25 and shares[1] == pytest.approx(0.0293, abs=0.005)


@every_codec
@kinds
def test_zero_buckets_stay_zero(codec: Codec, kind: str) -> None:
    values = heavy_tailed(2000)
    values[512:1024] = 0
    values[600] = -0.0
    values[1536:] = 0  # the short last bucket
    decoded = round_trip(codec, values, config_of(kind, 3, 512), levels_of(kind, 3))
    assert not decoded[512:1024].any() and not decoded[1536:].any() and decoded[:512].all()


@every_codec
@kinds
def test_a_poisoned_bucket_is_nan_and_nothing_else_is_touched(codec: Codec, kind: str) -> None:
    whole, config, levels = heavy_tailed(2000), config_of(kind, 3, 512), levels_of(kind, 3)
    clean = round_trip(codec, whole, config, levels)
    for poison, place in itertools.product((np.nan, np.inf, -np.inf), (512, 700, 1023, 1536, 1999)):
        values = whole.copy()
        values[place] = poison
        decoded = round_trip(codec, values, config, levels)
        poisoned = np.arange(2000) // 512 == place // 512
        assert np.isnan(decoded[poisoned]).all(), (poison, place)
        assert np.array_equal(decoded[~poisoned], clean[~poisoned]), (poison, place)


@every_codec
@kinds
def test_tiny_and_huge_gradients_survive(codec: Codec, kind: str) -> None:
    """At 8 bits the error is below a hundredth of the bucket's length, tails included."""
    bound = 0.02 if kind != "l2" else 1.0  # with Euclidean norms these levels are far apart: unbiased, not near
    for scale, bucket_size in itertools.product((1e-30, 1.0, 1e30), (512, 1000, 8192)):
        values = heavy_tailed(10_000, scale=scale)
        decoded = round_trip(codec, values, config_of(kind, 8, bucket_size), levels_of("nearest", 8)).astype(np.float64)
        for start in range(0, 10_000, bucket_size):
            part = slice(start, start + bucket_size)
            wide = values[part].astype(np.float64)
            assert np.linalg.norm(decoded[part] - wide) <= bound * np.linalg.norm(wide), (scale, bucket_size, start)


@every_codec
@kinds
def test_a_coordinate_of_the_smallest_normal_number_and_one_of_the_largest(codec: Codec, kind: str) -> None:
    """No intermediate sum overflows while the bucket's length is a float32; beyond it the bucket is NaN."""
    config, levels = config_of(kind, 8, 1024), lloyd_max(8)
    values = np.full(1024, 5e36, dtype=np.float32)
    error = round_trip(codec, values, config, levels).astype(np.float64) - values
    assert np.isfinite(error).all()
    values[:] = 3e38
    assert np.isnan(round_trip(codec, values, config, levels)).all()


@every_codec
def test_the_scale_of_nearest_rounding_makes_the_projection_exact(codec: Codec) -> None:
    values = heavy_tailed(1500)
    for bits in range(1, 9):
        decoded = round_trip(codec, values, config_of("nearest", bits, 1024), lloyd_max(bits)).astype(np.float64)
        for part in (slice(1024), slice(1024, None)):
            wide = values[part].astype(np.float64)
            assert decoded[part] @ wide == pytest.approx(wide @ wide, rel=1e-5), (bits, part)


@every_codec
def test_tails_add_no_bytes_but_the_name_of_the_signs(codec: Codec) -> None:
    for elements in (1, 2, 511, 512, 513, 1500):
        plain = RecordLayout(elements, QuantiserConfig(3, 512))
        rotated = RecordLayout(elements, config_of("l2", 3, 512))
        assert rotated.word_rows == plain.word_rows and rotated.norms_offset == plain.norms_offset + 16, elements
        record = encode(codec, heavy_tailed(elements), rotated.quantiser, uniform_levels(3))
        assert rotated.rotation(record).tolist() == [*KEY.shared_signs, 0, 0], elements
        bare = encode(codec, heavy_tailed(elements), plain.quantiser, uniform_levels(3))
        assert not plain.rotation(bare).size, elements


@every_codec
def test_shared_signs_for_stochastic_rounding_own_ones_for_the_nearest(codec: Codec) -> None:
    for kind, signs in (("linf", KEY.shared_signs), ("nearest", KEY.own_signs)):
        layout = RecordLayout(600, config_of(kind, 3, 512))
        key = KEY.at(1024)
        record = codec.encode(heavy_tailed(600), layout, levels_of(kind, 3), key, stamp_for(levels_of(kind, 3)))
        assert layout.rotation(record).tolist() == [*signs, 1024, 0]


@every_codec
def test_a_chunk_has_the_codes_of_the_whole(codec: Codec) -> None:
    """Two-shot cuts groups on bucket boundaries; the receiver rotates back by what the record says."""
    values, levels = heavy_tailed(2048), uniform_levels(4)
    config = config_of("linf", 4, 512)
    whole = round_trip(codec, values, config, levels)
    layout, stamp = RecordLayout(1024, config), stamp_for(levels)
    chunk = codec.encode(values[1024:], layout, levels, KEY.at(1024), stamp)
    assert np.array_equal(codec.decode_sum([chunk], layout, levels, [stamp], 1.0), whole[1024:])


@every_codec
@each(
    "other",
    [{}, {"rotate": True, "rounding": "nearest"}, {"rotate": True, "clip": 2.5}],
)
def test_records_rotated_otherwise_are_refused(codec: Codec, other: dict[str, Any]) -> None:
    levels = lloyd_max(3)
    config = QuantiserConfig(3, 512, rotate=True)
    record = encode(codec, heavy_tailed(1000), QuantiserConfig(3, 512, **other), levels)
    with pytest.raises(WireFormatError, match="expected flags 2, got .: start every rank with the same options"):
        decode(codec, record, 1000, config, levels)


@every_codec
def test_damage_to_the_name_of_the_signs_is_found(codec: Codec) -> None:
    config, levels = config_of("linf", 3, 512), uniform_levels(3)
    record = encode(codec, heavy_tailed(1000), config, levels)
    record[HEADER.size + 5] ^= 1
    with pytest.raises(WireFormatError, match="checksum"):
        decode(codec, record, 1000, config, levels)


def test_a_decoder_adds_first_and_rotates_back_once_where_signs_are_shared() -> None:
    config, levels = config_of("linf", 4, 512), uniform_levels(4)
    layout, stamps = RecordLayout(1300, config), [Stamp(levels.digest, 2, rank) for rank in range(3)]
    keys = [stream_key(seed=1, step=2, rank=rank, group=4, shot=0) for rank in range(3)]
    records = [
        REFERENCE.encode(heavy_tailed(1300, rank), layout, levels, keys[rank], stamps[rank]) for rank in range(3)
    ]
    plain = RecordLayout(1300, QuantiserConfig(4, 512, "linf"))
    total = np.zeros(1300, dtype=np.float32)
    for record, stamp in zip(records, stamps, strict=True):
        bare = plain.new_record()
        plain.norms(bare)[:], plain.words(bare)[:] = layout.norms(record), layout.words(record)
        seal(bare, plain, stamp)
        total += REFERENCE.decode_sum([bare], plain, levels, [stamp], 1.0)
    expected = rotate_values_back(total, config, keys[0].shared_signs, 0)
    assert np.array_equal(REFERENCE.decode_sum(records, layout, levels, stamps, 1.0), expected)


@each(
    ("options", "message"),
    [
        ({"rotate": 1}, "rotate: expected True or False, got 1"),
        ({"rounding": "up"}, "rounding: expected one of stochastic, nearest, got 'up'"),
        ({"rounding": "nearest"}, "'nearest' needs rotate=True and norm='l2', got rotate=False"),
        ({"rounding": "nearest", "rotate": True, "norm": "linf"}, "got rotate=True and norm='linf'"),
    ],
)
def test_configurations_that_can_not_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        QuantiserConfig(3, **options)


@pytest.mark.parametrize("kind", ["linf", "nearest"])
def test_bytes_and_sums_do_not_depend_on_the_number_of_threads(kind: str) -> None:
    config, levels = config_of(kind, 3, 1000), levels_of(kind, 3)
    values, layout = heavy_tailed(1_000_000), RecordLayout(1_000_000, config)
    stamps = [stamp_for(levels)] * 2
    one, many = NativeCodec(), NativeCodec(threads=3)
    records = [codec.encode(values, layout, levels, KEY, stamps[0]) for codec in (one, many)]
    assert np.array_equal(*records)
    sums = [codec.decode_sum(records, layout, levels, stamps, 0.5) for codec in (one, many)]
    assert np.array_equal(*sums)
