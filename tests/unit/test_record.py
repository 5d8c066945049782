"""The layout of records, and what a receiver says about a record it cannot trust."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from codec_cases import CODECS, KEY, heavy_tailed, uniform_levels

from alq_hvd.errors import ConfigurationError, WireFormatError
from alq_hvd.quantiser import record
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.record import RecordLayout, Stamp, checksum, seal, verify
from tests.support.cases import each

D = 8192
CONFIG = QuantiserConfig(bits=3, bucket_size=D)
LAYOUT = RecordLayout(5000, QuantiserConfig(bits=3, bucket_size=512))
STAMP = Stamp(levels_digest=0x12345678, step=2**32 + 7, sender=2)


def sealed(layout: RecordLayout = LAYOUT, stamp: Stamp = STAMP) -> np.ndarray:
    record = layout.new_record()
    layout.norms(record)[:] = np.arange(layout.buckets)
    layout.words(record)[:] = np.arange(layout.words(record).size).reshape(-1, 32)
    seal(record, layout, stamp)
    return record


def complaint(record: np.ndarray, layout: RecordLayout = LAYOUT, stamp: Stamp = STAMP) -> str:
    with pytest.raises(WireFormatError) as caught:
        verify(record, layout, stamp)
    message = str(caught.value)
    assert f"rank {stamp.sender} at step {stamp.step}" in message
    return message


@each(
    ("elements", "buckets", "word_rows"),
    [
        (0, 0, 0),
        (1, 1, 1),
        (32, 1, 1),
        (33, 1, 1),
        (352, 1, 2),
        (D - 1, 1, 24),
        (D, 1, 24),
        (D + 1, 2, 25),
        (5 * D, 5, 120),
    ],
)
def test_layout_of_every_length(elements: int, buckets: int, word_rows: int) -> None:
    """Pitfall 11: a full last bucket is a bucket like the others."""
    layout = RecordLayout(elements, CONFIG)
    assert (layout.buckets, layout.word_rows) == (buckets, word_rows)
    assert layout.norms_offset == 32
    assert layout.codes_offset % 128 == 0 and 32 + 4 * buckets <= layout.codes_offset < 32 + 4 * buckets + 128
    assert layout.payload_bytes == layout.codes_offset + 128 * word_rows
    assert layout.record_bytes % 512 == 0 and layout.payload_bytes <= layout.record_bytes < layout.payload_bytes + 512


@each("bits", range(1, 9))
def test_codes_take_their_bits_and_a_tail_tile_little_more(bits: int) -> None:
    for elements in (1, 31, 1023, 1024, 1025, 7 * 1024, 100_001):
        layout = RecordLayout(elements, QuantiserConfig(bits))
        needed = -(-elements * bits // 8)
        assert needed <= 128 * layout.word_rows < needed + 4 * bits + 128


def test_a_whole_record_is_accepted_and_its_views_are_the_fields() -> None:
    record = sealed()
    verify(record, LAYOUT, STAMP)
    assert record[:4].tobytes() == b"ALQ\x01"
    assert struct.unpack_from("<BBHIIIII", record, 4) == (3, 0, 0, 5000, 512, 0x12345678, 7, 2)
    assert LAYOUT.norms(record).tolist() == list(range(10))
    assert not record[LAYOUT.payload_bytes :].any()


@pytest.mark.parametrize("elements", [-1, 2**31])
def test_a_record_has_a_largest_size(elements: int) -> None:
    with pytest.raises(ConfigurationError, match=f"0 to 2147483647 elements, got {elements}: use smaller"):
        RecordLayout(elements, CONFIG)


def test_bad_magic_and_version() -> None:
    for offset, value, text in ((0, 66, "b'BLQ' version 1"), (3, 9, "b'ALQ' version 9")):
        record = sealed()
        record[offset] = value
        assert f"got {text}: install the same alq_hvd on every rank" in complaint(record)


@each(
    ("layout", "stamp", "text"),
    [
        (RecordLayout(5000, QuantiserConfig(4, 512)), STAMP, "expected bits 3, got 4"),
        (RecordLayout(5000, QuantiserConfig(3, 512, "linf")), STAMP, "expected norm 0, got 1"),
        (RecordLayout(5000, QuantiserConfig(3, 512, clip=2.5)), STAMP, "expected flags 0, got 1"),
        (RecordLayout(4999, QuantiserConfig(3, 512)), STAMP, "expected elements 5000, got 4999"),
        (RecordLayout(5000, QuantiserConfig(3, 256)), STAMP, "expected bucket_size 512, got 256"),
        (LAYOUT, Stamp(9, STAMP.step, 2), "expected levels_digest 305419896, got 9"),
        (LAYOUT, Stamp(STAMP.levels_digest, 8, 2), "expected step 7, got 8"),
        (LAYOUT, Stamp(STAMP.levels_digest, 7, 1), "expected sender 2, got 1"),
    ],
)
def test_the_field_that_differs_is_named(layout: RecordLayout, stamp: Stamp, text: str) -> None:
    """Even when the length differs too: the option explains it, the length does not."""
    assert f"{text}: start every rank with the same options" in complaint(sealed(layout, stamp))


def test_truncated_and_overlong_records() -> None:
    record = sealed()
    assert "expected a header of 32 bytes, got 31: it was cut off" in complaint(record[:31])
    assert f"got {record.size - 512}: bytes were lost or added" in complaint(record[:-512])
    assert f"got {record.size + 1}: bytes were lost or added" in complaint(np.append(record, np.uint8(0)))


def test_every_flipped_bit_is_noticed() -> None:
    layout = RecordLayout(100, QuantiserConfig(2, 64))
    record = sealed(layout)
    for position in range(8 * record.size):
        record[position // 8] ^= 1 << position % 8
        complaint(record, layout)
        record[position // 8] ^= 1 << position % 8
    verify(record, layout, STAMP)


def test_damage_is_told_from_disagreement() -> None:
    record = sealed()
    record[LAYOUT.codes_offset] ^= 1
    assert "expected checksum" in complaint(record) and "damaged on the way" in complaint(record)


@pytest.mark.parametrize("wrong", [np.zeros(512), np.zeros((2, 512), np.uint8), np.zeros(1024, np.uint8)[::2]])
def test_what_is_no_row_of_bytes_is_refused(wrong: np.ndarray) -> None:
    assert "expected contiguous uint8[n], got" in complaint(wrong)


def test_checksum_is_the_sum_of_the_words_behind_the_header() -> None:
    record = sealed()
    words = struct.unpack(f"<{(record.size - 32) // 4}I", record[32:].tobytes())
    assert checksum(record) == sum(words) % 2**32


@each("codec", CODECS.values())
@each("elements", [0, 1, 33, 5000])
def test_encoders_leave_the_padding_zero(codec, elements: int) -> None:  # type: ignore[no-untyped-def]
    levels, layout = uniform_levels(3), RecordLayout(elements, QuantiserConfig(3, 512))
    record = codec.encode(heavy_tailed(elements), layout, levels, KEY, STAMP)
    assert not record[32 + 4 * layout.buckets : layout.codes_offset].any()
    assert not record[layout.payload_bytes :].any()
    assert record.size == layout.record_bytes and record.dtype == np.uint8


def test_header_is_what_the_document_says() -> None:
    assert record.HEADER.size == 32 and record.HEADER.format == "<3sBBBHIIIIII"
