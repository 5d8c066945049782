"""The layout of a record: what one rank sends for one fusion group. ``docs/reference/wire-format.md`` is its prose.

A record is ``header | rotation | draws | norms | widths | codes | zeros``, with the rotation only where buckets are
rotated, the draws only where they are dithered, and the widths only where they differ from block to block: then codes
end somewhere in an area whose size is known beforehand. The layout follows from the configuration alone; the header
lets a receiver prove that the sender meant the same one, and that the bytes arrived whole.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from alq_hvd.errors import ConfigurationError, WireFormatError
from alq_hvd.quantiser.config import NORMS, QuantiserConfig

MAGIC = b"ALQ"
VERSION = 2
"""The newest version that is written: 2 where widths differ from block to block, 1 elsewhere, as ever."""
HEADER = struct.Struct("<3sBBBHIIIIII")
"""magic, version, bits, norm, flags, elements, bucket size, levels digest, step, sender, checksum (little-endian)."""
FLAG_CLIPPED, FLAG_ROTATED, FLAG_NEAREST, FLAG_DITHERED, FLAG_WIDTHS = 1, 2, 4, 8, 16
ROTATION_BYTES = 16
"""A rotated record tells its signs behind the header: two words of key, first element, a zero word."""
DRAWS_BYTES = 16
"""A dithered record tells its random numbers behind that: two words of key, first element, a zero word."""
CODES_ALIGNMENT = 128
RECORD_ALIGNMENT = 512
"""NCCL's allgather is several times slower when the send size is not a multiple of 512 bytes."""
LANES = 32
TILE = 1024
"""Codes are packed in tiles of 32 rows by 32 lanes: element ``e`` of a tile is row ``e // 32`` of lane ``e % 32``."""
MAXIMUM_ELEMENTS = 2**31 - 1
WIDEST_ROOM = 4
"""Bits: there is always room for one block of so many, however small the record and its budget."""


@dataclass(frozen=True)
class RecordLayout:
    """Give the offsets and sizes, in bytes, of a record of ``elements`` coordinates under ``quantiser``."""

    elements: int
    quantiser: QuantiserConfig

    def __post_init__(self) -> None:
        if not 0 <= self.elements <= MAXIMUM_ELEMENTS:
            raise ConfigurationError(
                f"a record holds 0 to {MAXIMUM_ELEMENTS} elements, got {self.elements}: use smaller fusion groups"
            )

    @cached_property
    def buckets(self) -> int:
        """Return how many norms the record holds; the last bucket may be short."""
        return -(-self.elements // self.quantiser.bucket_size)

    @cached_property
    def word_rows(self) -> int:
        """Return how many rows of 32 little-endian 32-bit words the packed codes fill."""
        budget = self.quantiser.budget
        if budget is None:
            return word_rows(self.elements, self.quantiser.bits)
        return max(math.ceil(budget * self.elements / TILE), word_rows(self.elements_of_block(0), WIDEST_ROOM))

    @cached_property
    def blocks(self) -> int:
        """Return how many blocks have a width of their own; none where all codes have one width."""
        return 0 if self.quantiser.budget is None else -(-self.elements // self.quantiser.block_size)

    def elements_of_block(self, block: int) -> int:
        """Return how many coordinates a block has; the last may be short."""
        return min(self.quantiser.block_size, self.elements - block * self.quantiser.block_size)

    def rows_of(self, widths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return int64[blocks]: how many word rows the codes of each block fill at ``widths``, int64[blocks]."""
        rows = widths * (self.quantiser.block_size // TILE)
        if self.blocks:
            rows[-1] = word_rows(self.elements_of_block(self.blocks - 1), int(widths[-1]))
        return rows

    @cached_property
    def draws_offset(self) -> int:
        """Return where the key of the draws starts, if the record holds it."""
        return HEADER.size + (ROTATION_BYTES if self.quantiser.rotate else 0)

    @cached_property
    def norms_offset(self) -> int:
        """Return where the float32 norms start."""
        return self.draws_offset + (DRAWS_BYTES if self.quantiser.dither else 0)

    @cached_property
    def widths_offset(self) -> int:
        """Return where the widths start, if the record holds them."""
        return self.norms_offset + 4 * self.buckets

    @cached_property
    def codes_offset(self) -> int:
        """Return where the packed codes start, a multiple of 128."""
        return _round_up(self.widths_offset + self.blocks, CODES_ALIGNMENT)

    @cached_property
    def payload_bytes(self) -> int:
        """Return the bytes that carry information: header, norms and codes, before padding."""
        return self.codes_offset + 4 * LANES * self.word_rows

    @cached_property
    def record_bytes(self) -> int:
        """Return the length of the record, padded to a multiple of 512."""
        return _round_up(self.payload_bytes, RECORD_ALIGNMENT)

    def new_record(self) -> npt.NDArray[np.uint8]:
        """Return uint8[record_bytes] with zeros for padding; all else is for an encoder to write, whatever is there."""
        record = np.empty(self.record_bytes, dtype=np.uint8)  # zeros would nearly all be overwritten
        record[self.widths_offset + self.blocks : self.codes_offset] = 0
        record[self.payload_bytes :] = 0
        return record

    def norms(self, record: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the norms of ``record`` as a float32[buckets] view."""
        return record[self.norms_offset : self.widths_offset].view("<f4")

    def widths(self, record: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return the widths of ``record`` as a uint8[blocks] view."""
        return record[self.widths_offset : self.widths_offset + self.blocks]

    def rotation(self, record: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
        """Return what names the signs of a rotated ``record`` as a uint32[4] view; uint32[0] of one not rotated."""
        return record[HEADER.size : self.draws_offset].view("<u4")

    def draws(self, record: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
        """Return what names the draws of a dithered ``record`` as a uint32[4] view; uint32[0] of one not dithered."""
        return record[self.draws_offset : self.norms_offset].view("<u4")

    def words(self, record: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
        """Return the packed codes of ``record`` as a uint32[word_rows, 32] view."""
        return record[self.codes_offset : self.payload_bytes].view("<u4").reshape(self.word_rows, LANES)


@dataclass(frozen=True, slots=True)
class Stamp:
    """Name the circumstances a record was encoded under, as its header carries them.

    Attributes:
        levels_digest: ``Levels.digest`` of the table in force, mixed with what tells whose gradients these are.
        step: training step, modulo 2**32.
        sender: rank that encoded the record.
    """

    levels_digest: int
    step: int
    sender: int


class Header(NamedTuple):
    """Hold the fields of a header in the order they are written."""

    magic: bytes
    version: int
    bits: int
    norm: int
    flags: int
    elements: int
    bucket_size: int
    levels_digest: int
    step: int
    sender: int
    checksum: int

    @classmethod
    def of(cls, layout: RecordLayout, stamp: Stamp, check: int) -> Header:
        """Return the header of a record whose bytes behind the header sum up to ``check``."""
        quantiser = layout.quantiser
        return cls(
            MAGIC,
            _version(quantiser),
            0 if quantiser.budget is not None else quantiser.bits,
            NORMS.index(quantiser.norm),
            _flags(quantiser),
            layout.elements,
            quantiser.bucket_size,
            stamp.levels_digest,
            stamp.step % 2**32,
            stamp.sender,
            check,
        )


def seal(record: npt.NDArray[np.uint8], layout: RecordLayout, stamp: Stamp, check: int | None = None) -> None:
    """Write the header of ``record``, whose norms and codes are already in place.

    ``check`` is its ``checksum``, from an encoder that summed up the words as it wrote them.
    """
    check = checksum(record) if check is None else check
    HEADER.pack_into(record.data, 0, *Header.of(layout, stamp, check))


def verify(record: npt.NDArray[np.uint8], layout: RecordLayout, stamp: Stamp) -> None:
    """Raise ``WireFormatError`` unless ``record`` is whole and was encoded under ``layout`` and ``stamp``.

    The fields are compared before the length: a rank with other options sends another length, too, and hearing which
    option differs helps more than hearing that bytes are missing.
    """
    sender = f"record from rank {stamp.sender} at step {stamp.step}"
    if record.dtype != np.uint8 or record.ndim != 1 or not record.flags.c_contiguous:
        raise WireFormatError(f"{sender}: expected contiguous uint8[n], got {_described(record)}")
    if record.size < HEADER.size:
        raise WireFormatError(f"{sender}: expected a header of {HEADER.size} bytes, got {record.size}: it was cut off")
    found = Header(*HEADER.unpack_from(record.data))
    version = _version(layout.quantiser)
    if (found.magic, found.version) != (MAGIC, version):
        raise WireFormatError(
            f"{sender}: expected wire format {MAGIC!r} version {version}, got {found.magic!r} version "
            f"{found.version}: install the same alq_hvd on every rank, and start them with the same widths"
        )
    expected = Header.of(layout, stamp, found.checksum)
    for name, want, got in zip(Header._fields, expected, found, strict=True):
        if want != got:
            raise WireFormatError(
                f"{sender}: expected {name} {want}, got {got}: start every rank with the same options, and the "
                "same parameters in the same order"
            )
    if record.size != layout.record_bytes:
        raise WireFormatError(
            f"{sender}: expected {layout.record_bytes} bytes for {layout.elements} elements at "
            f"{layout.quantiser.mean_bits:g} bits, got {record.size}: bytes were lost or added on the "
            "way, or ranks differ in their bits"
        )
    got = checksum(record)
    if found.checksum != got:
        raise WireFormatError(
            f"{sender}: expected checksum {found.checksum:#010x}, got {got:#010x}: the bytes were damaged on the way"
        )
    if layout.blocks:
        _verify_widths(layout.widths(record).astype(np.int64), layout, sender)


def _verify_widths(widths: npt.NDArray[np.int64], layout: RecordLayout, sender: str) -> None:
    """Raise ``WireFormatError`` unless codes of ``widths`` lie inside the record."""
    filled, widest = int(layout.rows_of(widths).sum()), int(widths.max())
    if widest > layout.quantiser.bits or filled > layout.word_rows:
        raise WireFormatError(
            f"{sender}: expected widths of at most {layout.quantiser.bits} bits that fill at most {layout.word_rows} "
            f"rows of codes, got up to {widest} bits and {filled} rows: the bytes were damaged on the way"
        )


def word_rows(elements: int, bits: int) -> int:
    """Return how many rows of 32 words the codes of ``elements`` coordinates fill, packed from a new tile on."""
    full, rest = divmod(elements, TILE)
    return full * bits + -(-(-(-rest // LANES) * bits) // 32)


def checksum(record: npt.NDArray[np.uint8]) -> int:
    """Return the sum, modulo 2**32, of the little-endian 32-bit words that follow the header."""
    return int(np.add.reduce(record[HEADER.size :].view("<u4"), dtype=np.uint32))


def _version(quantiser: QuantiserConfig) -> int:
    return 1 if quantiser.budget is None else 2


def _flags(quantiser: QuantiserConfig) -> int:
    return (
        FLAG_CLIPPED * (quantiser.clip is not None)
        + FLAG_ROTATED * quantiser.rotate
        + FLAG_NEAREST * (quantiser.rounding == "nearest")
        + FLAG_DITHERED * quantiser.dither
        + FLAG_WIDTHS * (quantiser.budget is not None)
    )


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _described(array: npt.NDArray[np.generic]) -> str:
    return f"{array.dtype}{list(array.shape)}{'' if array.flags.c_contiguous else ', not contiguous'}"
