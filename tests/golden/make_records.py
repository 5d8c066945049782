"""Write the golden records: a file a number of bits, rotated ones, and ones whose blocks have widths of their own.

They are the bytes that every codec must always give. Run ``python tests/golden/make_records.py`` only when the wire
format changes, together with ``alq_hvd.quantiser.record.VERSION``.
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
from alq_hvd.quantiser.levels_by_width import AnyLevels, LevelsByWidth
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


BY_WIDTH = {
    "widths": QuantiserConfig(8, 256, "linf", budget=1.5),
    "widths-l2-clipped": QuantiserConfig(8, 512, "l2", 2.5, budget=3),
    "widths-rotated-dithered": QuantiserConfig(8, 128, "linf", rotate=True, dither=True, budget=0.75),
    "widths-rotated-nearest": QuantiserConfig(8, 1024, "l2", rotate=True, rounding="nearest", budget=1.25),
    "widths-large-buckets": QuantiserConfig(8, 2048, "linf", budget=2),
}
"""Records of version 2."""


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


def wide_gradient() -> FloatArray:
    """Return float32[9500]: ``gradient()`` again and again, each time sixteen times as large, but for a silent part."""
    parts = [gradient() * np.float32(16.0**turn) for turn in range(6)]
    values = np.concatenate([*parts, parts[0][:500]])
    values[np.isinf(values)] = 0
    values[3000:5200], values[8000] = 0, np.inf
    return values


def tables() -> LevelsByWidth:
    """Return a table for each width from 2 bits on, and errors that fall by a quarter a bit."""
    return LevelsByWidth(2, tuple(levels(bits) for bits in range(2, 9)), np.float32(4.0) ** -np.arange(1, 8))


def wide_cases() -> Iterator[tuple[Path, RecordLayout, LevelsByWidth, Stamp]]:
    """Yield the cases of blocks with a width each."""
    for step, (name, config) in enumerate(BY_WIDTH.items(), 40):
        stamp = Stamp(tables().digest, step=step, sender=step)
        yield FOLDER / f"record-{name}.bin", RecordLayout(len(wide_gradient()), config), tables(), stamp


def cases() -> Iterator[tuple[Path, RecordLayout, Levels, Stamp]]:
    """Yield file, layout, levels and stamp of each golden record of version 1."""
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


def encoded(codec: Codec, layout: RecordLayout, table: AnyLevels, stamp: Stamp) -> Record:
    """Return the record of ``gradient()``, or of ``wide_gradient()``."""
    values = gradient() if layout.elements == ELEMENTS else wide_gradient()
    key = stream_key(seed=1234, step=stamp.step, rank=stamp.sender, group=5, shot=0).at(70_000)
    return codec.encode(values, layout, table, key, stamp)


if __name__ == "__main__":
    for path, *case in (*cases(), *wide_cases()):
        path.write_bytes(encoded(ReferenceCodec(), *case).tobytes())
        print(path.name, path.stat().st_size)
