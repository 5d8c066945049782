"""What codecs refuse: arguments of the wrong kind, damaged records, and neighbours' memory."""

from __future__ import annotations

import numpy as np
import pytest
from codec_cases import CODECS, KEY, NATIVE, encode, heavy_tailed, stamp_for, uniform_levels

from alq_hvd.codec.base import Codec
from alq_hvd.codec.native import NativeCodec
from alq_hvd.errors import AlqError, ConfigurationError, UnsupportedTensor, WireFormatError
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.record import RecordLayout, checksum, seal
from tests.support.cases import each

CONFIG, LEVELS = QuantiserConfig(3, 512), uniform_levels(3)
LAYOUT, STAMP = RecordLayout(3000, CONFIG), stamp_for(LEVELS)
every_codec = each("codec", CODECS.values())


@every_codec
@each(
    ("values", "got"),
    [
        (np.zeros(3000), "float64[3000]"),
        (np.zeros(3000, np.float16), "float16[3000]"),
        (np.zeros(6000, np.float32)[::2], "float32[3000], not contiguous"),
        (np.zeros((30, 100), np.float32), "float32[30, 100]"),
        (np.zeros(2999, np.float32), "float32[2999]"),
        ([0.0] * 3000, "list"),
    ],
)
def test_values_must_be_what_the_layout_says(codec: Codec, values: np.ndarray, got: str) -> None:
    with pytest.raises(UnsupportedTensor) as caught:
        codec.encode(values, LAYOUT, LEVELS, KEY, STAMP)
    assert f"expected contiguous float32[3000], got {got}: flatten, convert and copy it first" in str(caught.value)


@every_codec
@each("values", [np.zeros(8), np.zeros((2, 4), np.float32), np.zeros(16, np.float32)[::2]])
def test_statistics_want_float32(codec: Codec, values: np.ndarray) -> None:
    with pytest.raises(UnsupportedTensor, match=r"expected contiguous float32\[n\]"):
        codec.statistics(values, CONFIG, 2)


@every_codec
def test_levels_must_fit_the_bits(codec: Codec) -> None:
    with pytest.raises(ConfigurationError, match="expected at most 8 levels at 3 bits, got 16: use bits=4 or more"):
        codec.encode(np.zeros(3000, np.float32), LAYOUT, uniform_levels(4), KEY, STAMP)
    with pytest.raises(ConfigurationError, match="expected at most 8 levels"):
        codec.decode_sum([], LAYOUT, uniform_levels(4), [], 1.0)


@every_codec
def test_one_stamp_a_record(codec: Codec) -> None:
    record = encode(codec, heavy_tailed(3000), CONFIG, LEVELS)
    with pytest.raises(ConfigurationError, match="expected one stamp a record, got 1 stamps and 2 records"):
        codec.decode_sum([record, record], LAYOUT, LEVELS, [STAMP], 1.0)


@every_codec
def test_records_of_another_table_or_damaged_ones_are_refused(codec: Codec) -> None:
    record = encode(codec, heavy_tailed(3000), CONFIG, LEVELS)
    with pytest.raises(WireFormatError, match="expected levels_digest"):
        other = Levels([-1, 0, 1])
        codec.decode_sum([record], LAYOUT, other, [stamp_for(other)], 1.0)
    for damaged in (record[:-512], record[512:], np.zeros_like(record), np.roll(record, 4)):
        with pytest.raises(WireFormatError):
            codec.decode_sum([record, damaged], LAYOUT, LEVELS, [STAMP, STAMP], 1.0)


@every_codec
@each("bits", range(1, 9))
def test_codes_beyond_the_table_decode_to_finite_numbers(codec: Codec, bits: int) -> None:
    """A sealed record of random codes under a table that leaves codes unused: every value is norm times some level."""
    generator = np.random.default_rng(bits)
    levels = Levels(np.linspace(-1, 1, max(2, 2**bits - 3)))
    layout, stamp = RecordLayout(3000, QuantiserConfig(bits, 512)), stamp_for(levels)
    record = layout.new_record()
    layout.words(record)[:] = generator.integers(0, 2**32, (layout.word_rows, 32), dtype=np.uint32)
    layout.norms(record)[:] = 2.0
    seal(record, layout, stamp)
    decoded = codec.decode_sum([record], layout, levels, [stamp], 1.0)
    assert np.isin(decoded, 2 * levels.values).all() and len(np.unique(decoded)) == len(levels)


@every_codec
def test_random_bytes_are_refused(codec: Codec) -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        size = int(generator.integers(0, 2 * LAYOUT.record_bytes))
        with pytest.raises(AlqError):
            codec.decode_sum([generator.integers(0, 256, size, dtype=np.uint8)], LAYOUT, LEVELS, [STAMP], 1.0)


@pytest.mark.parametrize("codec", NATIVE.values(), ids=NATIVE)
def test_kernels_stay_inside_their_buffers(codec: NativeCodec) -> None:
    """Values, record and result lie between guards of one page; every length and alignment leaves them whole."""
    guard = 4096
    for elements in (0, 1, 31, 33, 1000, 1023, 1025, 2500):
        for bits in range(1, 9):
            layout = RecordLayout(elements, QuantiserConfig(bits, 96))
            room = np.full(layout.record_bytes + 2 * guard, 0xA5, dtype=np.uint8)
            record = room[guard : guard + layout.record_bytes]
            record[:] = 0
            arguments = {
                "norms_offset": layout.norms_offset,
                "codes_offset": layout.codes_offset,
                "bits": bits,
                "bucket_size": 96,
                "levels": uniform_levels(bits).values,
                "inverse_gaps": uniform_levels(bits).inverse_gaps,
            }
            values = heavy_tailed(elements)
            codec._native.encode(
                codec.instruction_set, values, record, maximum_norm=False, clip=0.0, key_first=1, key_second=2,
                first_element=0, **arguments,
            )  # fmt: skip
            assert (room[:guard] == 0xA5).all() and (room[guard + layout.record_bytes :] == 0xA5).all()
            assert not record[:32].any() and not record[layout.payload_bytes :].any()
            floats = np.full(elements + 2048, 7.5, dtype=np.float32)
            codec._native.decode_sum(
                codec.instruction_set, [record], floats[1024 : 1024 + elements], scale=1.0, **arguments
            )
            assert (floats[:1024] == 7.5).all() and (floats[1024 + elements :] == 7.5).all()


@pytest.mark.parametrize("codec", NATIVE.values(), ids=NATIVE)
def test_the_extension_checks_its_own_arguments(codec: NativeCodec) -> None:
    """Whoever calls it past NativeCodec gets an exception, never a crash."""
    good = {
        "norms_offset": LAYOUT.norms_offset,
        "codes_offset": LAYOUT.codes_offset,
        "bits": 3,
        "bucket_size": 512,
        "levels": LEVELS.values,
        "inverse_gaps": LEVELS.inverse_gaps,
        "scale": 1.0,
    }
    record, out = LAYOUT.new_record(), np.zeros(3000, np.float32)
    decode = codec._native.decode_sum
    decode(codec.instruction_set, [record], out, **good)
    bad: list[dict[str, object]] = [
        {"bits": 0}, {"bits": 9}, {"bucket_size": 0}, {"norms_offset": -4}, {"norms_offset": 30}, {"codes_offset": 40},
        {"levels": np.zeros(1, np.float32)}, {"levels": np.zeros(9, np.float32)},
        {"inverse_gaps": np.zeros(3, np.float32)}, {"norms_offset": 2**62}, {"codes_offset": 2**62},
        {"codes_offset": 2**63 - 4},
    ]  # fmt: skip
    for change in bad:
        with pytest.raises(ValueError):
            decode(codec.instruction_set, [record], out, **{**good, **change})
    with pytest.raises(ValueError, match="too short"):
        decode(codec.instruction_set, [record[:-1024]], out, **good)
    with pytest.raises(ValueError, match="no instruction set"):
        decode("sse9", [record], out, **good)
    for wrong in (out.astype(np.float64), np.zeros(6000, np.float32)[::2]):
        with pytest.raises(TypeError):
            decode(codec.instruction_set, [record], wrong, **good)
    with pytest.raises(TypeError):
        decode(codec.instruction_set, [record.astype(np.int16)], out, **good)


def test_an_unknown_instruction_set_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"expected one of baseline.*, got 'sse9'"):
        NativeCodec("sse9")


def test_reading_the_checksum_does_not_change_the_record() -> None:
    record = encode(CODECS["reference"], heavy_tailed(3000), CONFIG, LEVELS)
    before = record.copy()
    checksum(record)
    CODECS["reference"].decode_sum([record], LAYOUT, LEVELS, [STAMP], 1.0)
    assert np.array_equal(record, before)
