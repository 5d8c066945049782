"""Every codec gives the bytes of the reference, and adds records in the same order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from codec_cases import CODECS, KEY, NATIVE, encode, heavy_tailed, stamp_for, uneven_levels

from alq_hvd.codec.base import Codec
from alq_hvd.codec.native import NativeCodec
from alq_hvd.errors import UnsupportedTensor
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.record import RecordLayout, Stamp
from tests.support.cases import each

REFERENCE = CODECS["reference"]
LENGTHS = (0, 1, 31, 33, 511, 512, 513, 1023, 1025, 4096, 5000)


def gradient(elements: int, bucket_size: int, seed: int) -> np.ndarray:
    """Return a gradient with one silent bucket and one that holds NaN, where there is room for them."""
    values = heavy_tailed(elements, seed)
    values[bucket_size : 2 * bucket_size] = 0
    values[3 * bucket_size : 3 * bucket_size + 1] = np.nan
    return values


@each("norm", ["l2", "linf"])
@each("clip", [None, 2.5])
def test_native_gives_the_bytes_of_the_reference(norm: str, clip: float | None) -> None:
    for bits, (seed, elements) in itertools.product(range(1, 9), enumerate(LENGTHS)):
        bucket_size = (1, 7, 64, 100, 512, 8192)[seed % 6]
        levels = uneven_levels((2**bits, max(2, 2**bits - 1), 2)[seed % 3], seed)
        values, config = gradient(elements, bucket_size, seed), QuantiserConfig(bits, bucket_size, norm, clip)
        expected = encode(REFERENCE, values, config, levels)
        for name, native in NATIVE.items():
            got = encode(native, values, config, levels)
            assert np.array_equal(expected, got), (name, bits, elements, bucket_size, len(levels))


def test_buckets_of_every_alignment() -> None:
    """Buckets and tiles end at different places unless one divides the other."""
    for bucket_size, norm in itertools.product((1, 31, 32, 96, 1000, 1024, 1056, 3000, 8192), ("l2", "linf")):
        values, levels = gradient(10_007, bucket_size, 0), uneven_levels(7)
        config = QuantiserConfig(3, bucket_size, norm)
        record = encode(REFERENCE, values, config, levels)
        layout, stamps = RecordLayout(values.size, config), [stamp_for(levels)] * 2
        expected = REFERENCE.decode_sum([record] * 2, layout, levels, stamps, 0.5)
        for name, native in NATIVE.items():
            case = (name, bucket_size, norm)
            assert np.array_equal(record, encode(native, values, config, levels)), case
            total = native.decode_sum([record] * 2, layout, levels, stamps, 0.5)
            assert np.array_equal(expected, total, equal_nan=True), case


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("rotate", [False, True])
def test_every_byte_is_written_whatever_was_in_the_memory(
    codec: Codec, rotate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encoded(bits: int, elements: int, bucket_size: int) -> np.ndarray:
        config = QuantiserConfig(bits, bucket_size, rotate=rotate)
        return encode(codec, gradient(elements, bucket_size, bits), config, uneven_levels(2**bits))

    cases = [(bits, elements, 100 * bits) for bits in range(1, 9) for elements in LENGTHS]
    expected = [encoded(*case) for case in cases]
    monkeypatch.setattr(np, "empty", lambda shape, dtype=float: np.frombuffer(
        bytearray(b"\xaa" * int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype=dtype).reshape(shape))  # fmt: skip
    assert all(np.array_equal(*pair) for pair in zip(expected, (encoded(*case) for case in cases), strict=True))


def test_sums_are_equal_to_the_bit() -> None:
    for bits in range(1, 9):
        levels, config = uneven_levels(2**bits), QuantiserConfig(bits, 512)
        layout = RecordLayout(5000, config)
        stamps = [Stamp(levels.digest, 2, sender) for sender in range(5)]
        records = [
            REFERENCE.encode(heavy_tailed(5000, sender, 10.0**sender), layout, levels, KEY, stamp)
            for sender, stamp in enumerate(stamps)
        ]
        expected = REFERENCE.decode_sum(records, layout, levels, stamps, 1 / 3)
        for name, native in NATIVE.items():
            assert np.array_equal(expected, native.decode_sum(records, layout, levels, stamps, 1 / 3)), (name, bits)


@each("codec", CODECS.values())
def test_records_are_added_in_the_order_given(codec) -> None:  # type: ignore[no-untyped-def]
    """Float32 sums depend on the order: 1e8 + 1 - 1e8 is 0, 1e8 - 1e8 + 1 is 1."""
    levels, config = uneven_levels(2), QuantiserConfig(1, 1, "linf")
    layout, stamp = RecordLayout(1, config), stamp_for(levels)
    big, one, minus = (encode(codec, [value], config, levels) for value in (1e8, 1.0, -1e8))
    for order, total in (((big, one, minus), 0.0), ((big, minus, one), 1.0)):
        assert codec.decode_sum(order, layout, levels, [stamp] * 3, 1.0).tolist() == [total]


@each("codec", CODECS.values())
def test_no_records_sum_to_zero(codec) -> None:  # type: ignore[no-untyped-def]
    levels = uneven_levels(4)
    assert codec.decode_sum([], RecordLayout(40, QuantiserConfig(2)), levels, [], 1.0).tolist() == [0.0] * 40


@each("native", NATIVE.values())
@each("norm", ["l2", "linf"])
@each("clip", [None, 2.5])
def test_statistics_agree_with_the_reference(native: NativeCodec, norm: str, clip: float | None) -> None:
    """Counts exactly; float64 sums up to their rounding, because their order is free."""
    values, config = gradient(20_011, 512, 0), QuantiserConfig(3, 512, norm, clip)
    for exponent in (0, 1, 2):
        expected, got = (codec.statistics(values, config, exponent) for codec in (REFERENCE, native))
        for name in ("coordinates", "zero_buckets", "non_finite_buckets", "weight_exponent"):
            assert getattr(expected, name) == getattr(got, name)
        for name in ("mass", "first_moment", "second_moment", "pooled_sum", "pooled_squares", "buckets"):
            np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bucket_size", [64, 5000, 8192])
def test_threads_do_not_change_the_bytes(bucket_size: int) -> None:
    """Elements enough for four threads, and ranges that must end at whole buckets and tiles."""
    values, levels = heavy_tailed(700_001), uneven_levels(8)
    config = QuantiserConfig(3, bucket_size)
    layout, stamps = RecordLayout(values.size, config), [stamp_for(levels)] * 2
    record = encode(NativeCodec(), values, config, levels)
    total = NativeCodec().decode_sum([record] * 2, layout, levels, stamps, 0.5)
    for threads in (2, 3, 4, 64):
        codec = NativeCodec(threads=threads)
        assert np.array_equal(record, encode(codec, values, config, levels))
        assert np.array_equal(total, codec.decode_sum([record] * 2, layout, levels, stamps, 0.5))


def test_divisions_at_every_scale() -> None:
    """Where the reciprocal's remainder could underflow, and under levels so near zero that it would show."""
    tables = uneven_levels(8), Levels([-1, 1e-30, 0.5, 1]), Levels([-1, -1e-7, 0, 1e-7, 0.5])
    config = QuantiserConfig(3, 512)
    for scale, table in itertools.product((1e-37, 1e-20, 1e-11, 1.0, 1e29, 1e31), tables):
        values = heavy_tailed(4096, scale=scale)
        values[::3] *= np.float32(2.0**-60)
        expected = encode(REFERENCE, values, config, table)
        for name, native in NATIVE.items():
            assert np.array_equal(expected, encode(native, values, config, table)), (name, scale, table)


@each("codec", CODECS.values())
def test_the_sum_is_written_where_it_is_wanted(codec) -> None:  # type: ignore[no-untyped-def]
    values, levels, config = heavy_tailed(3000), uneven_levels(8), QuantiserConfig(3, 512)
    layout, stamps = RecordLayout(3000, config), [stamp_for(levels)]
    record = encode(codec, values, config, levels)
    wanted = np.full(3000, 7.0, dtype=np.float32)
    got = codec.decode_sum([record], layout, levels, stamps, 2.0, wanted)
    assert got is wanted and np.array_equal(wanted, codec.decode_sum([record], layout, levels, stamps, 2.0))
    for wrong in (np.zeros(2999, np.float32), np.zeros(3000)):
        with pytest.raises(UnsupportedTensor):
            codec.decode_sum([record], layout, levels, stamps, 2.0, wrong)
