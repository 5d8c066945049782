"""Write the golden records: a file a number of bits, and rotated ones: the bytes that every codec must always give.

Run ``python tests/golden/make_records.py`` only when the wire format changes, together
with ``alq_hvd.quantiser.record.VERSION``.
The inputs use integer arithmetic, float32 multiplication and powers of two alone, so that they are the same anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from alq_hvd.codec.base import Codec, FloatArray, Record
from alq_hvd.codec.keys import stream_key
from alq_hvd.codec.reference import ReferenceCodec
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.record import RecordLayout, Stamp

FOLDER = Path(__file__).parent
ELEMENTS = 1500
"""One full tile, a tail tile whose last row is short, a short last bucket."""

ROTATED = {
    "rotated-2-bits": QuantiserConfig(2, 100, "linf", rotate=True),
    "rotated-clipped-3-bits": QuantiserConfig(3, 100, "l2", 2.5, rotate=True),
    "rotated-nearest-4-bits": QuantiserConfig(4, 100, "l2", rotate=True, rounding="nearest"),
}
"""Two blocks of 64 that overlap in a bucket of 100; once, clipped, and twice with rounding to the nearest."""

DITHERED = {
    "dithered-3-bits": QuantiserConfig(3, 100, "linf", dither=True),
    "rotated-dithered-2-bits": QuantiserConfig(2, 100, "linf", rotate=True, dither=True),
}
"""Records that name their draws."""


def gradient() -> FloatArray:
    """Return float32[ELEMENTS]: cubes of pseudo-random fractions, one silent bucket, one with an infinity."""
    index = np.arange(1, ELEMENTS + 1, dtype=np.uint64)
    hashed = (index * np.uint64(2654435761)) % np.uint64(2**32)
    fractions = hashed.astype(np.float64) / 2**31 - 1
    values = (fractions.astype(np.float32) ** 2 * fractions.astype(np.float32)) * np.float32(2**-10)
    values[300:400] = 0
    values[555] = np.inf
    return values


def levels(bits: int) -> Levels:
    """Return 2**bits levels (one less where there is room for a level at zero), closer together near zero."""
    count = 2**bits - (bits % 2 if bits > 1 else 0)
    steps = (2 * np.arange(count, dtype=np.float64) - (count - 1)) / (count - 1)
    return Levels(steps * np.abs(steps))


def cases() -> Iterator[tuple[Path, RecordLayout, Levels, Stamp]]:
    """Yield file, layout, levels and stamp of each golden record."""
    yield from plain_cases()
    for name, config in {**ROTATED, **DITHERED}.items():
        table = levels(config.bits)
        stamp = Stamp(table.digest, step=20 + config.bits, sender=config.bits)
        yield FOLDER / f"record-{name}.bin", RecordLayout(ELEMENTS, config), table, stamp


def plain_cases() -> Iterator[tuple[Path, RecordLayout, Levels, Stamp]]:
    """Yield the cases of buckets that are quantised as they are."""
    for bits in range(1, 9):
        config = QuantiserConfig(
            bits, bucket_size=100, norm="l2" if bits % 2 else "linf", clip=2.5 if bits == 2 else None
        )
        table = levels(bits)
        stamp = Stamp(table.digest, step=bits, sender=bits + 1)
        yield FOLDER / f"record-{bits}-bits.bin", RecordLayout(ELEMENTS, config), table, stamp


def encoded(codec: Codec, layout: RecordLayout, table: Levels, stamp: Stamp) -> Record:
    """Return the record of ``gradient()``."""
    key = stream_key(seed=1234, step=stamp.step, rank=stamp.sender, group=5, shot=0).at(70_000)
    return codec.encode(gradient(), layout, table, key, stamp)


if __name__ == "__main__":
    for path, *case in cases():
        path.write_bytes(encoded(ReferenceCodec(), *case).tobytes())
        print(path.name, path.stat().st_size)
