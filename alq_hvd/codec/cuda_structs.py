"""What the CUDA kernels take by value, laid out as ``cuda/*.cuh`` declares it."""

from __future__ import annotations

import struct
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from alq_hvd.codec.keys import INDEPENDENT, SignKey, Strata
from alq_hvd.codec.rotation import block_scale
from alq_hvd.codec.strata import DRAW_BITS, draws_of, own_bits, polynomial_of
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels import MAXIMUM_BITS, Levels
from alq_hvd.quantiser.levels_by_width import LevelsByWidth
from alq_hvd.quantiser.record import HEADER, LANES, TILE, Header, RecordLayout, Stamp
from alq_hvd.quantiser.widths import STEPS_LOG2, Ladder

Struct = npt.NDArray[np.void]

KEY = np.dtype([("first", "<u4"), ("second", "<u4")])
GROUP = np.dtype(
    [
        *[(name, "<u4") for name in ("elements", "bucket_size", "maximum_norm", "rounds")],
        ("clip", "<f8"),
        ("reach", "<f8"),
        ("signs", KEY),
        ("tiles_log2", "<i4"),
        ("scale", "<f4"),
        ("unshifted", "<u8"),
        ("dither", "<f4"),
        ("strata_log2", "<i4"),
        ("strata", "<u4", 5),
        ("reserved", "<u4"),
    ]
)
TENSORS = np.dtype([("data", "<u8"), ("ends", "<u8"), ("residual", "<u8"), ("count", "<u4"), ("reserved", "<u4")])
RECORD_PLAN = np.dtype(
    [("codes_offset", "<u4"), ("payload", "<u4"), ("record", "<u4"), ("header", "<u4", 7), ("named", "<u4", 8)]
)
RECORDS = np.dtype(
    [("data", "<u8"), ("senders", "<u8"), ("count", "<u4"), ("codes_offset", "<u4"), ("expected", "<u4", 6)]
)
PLACING = np.dtype(
    [
        *[(name, "<u4") for name in ("widths_offset", "codes_offset", "rows", "stride")],
        ("places", "<u8"),
        ("lowest", "<u4"),
        ("reserved", "<u4"),
    ]
)
LADDER = np.dtype([("base", "<i4"), ("count", "<i4"), ("keeps_all", "<i4"), ("steps", "<i4", MAXIMUM_BITS)])
BINS = np.dtype([("octaves", "<i4"), ("per_octave_log2", "<i4"), ("weight_exponent", "<i4")])

_KEY, _GROUP, _TENSORS = struct.Struct("<2I"), struct.Struct("<4I2d2IifQfi5I4x"), struct.Struct("<3Q2I")
_PLACING, _LADDER = struct.Struct("<4IQI4x"), struct.Struct(f"<3i{MAXIMUM_BITS}i")
_WORDS, _NAMED, _RECORDS = struct.Struct("<3I"), struct.Struct("<8I"), struct.Struct("<2Q2I")
_NOTHING = (0,) * 8
_NO_NAMES = _NAMED.pack(*_NOTHING)

WHOLE_CHUNK = 8192
"""Elements that a block works on, where buckets are not larger: 32 KiB of its shared memory."""
LARGEST_CHUNK = 49_152
"""The largest bucket that the shared memory of a block holds beside its tables (A100: 163 KiB, H100: 227)."""
SMALLEST_FUSED_BUCKET = 64
PLACED = 4 * LANES
"""kPlaced of ``cuda/shares.cuh``."""
KEYS = (256 + 10 + 252 + 1) << STEPS_LOG2
"""kKeys of the same."""
NO_SIGNS = SignKey()
NOT_HELD = -1
ROW_BYTES = 4 * LANES
"""32 elements in shared memory."""
GAPPED_ROW_BYTES = ROW_BYTES + 4
"""32 elements where buckets are rotated: see ``cuda/rotate.cuh``."""


def chunk_size(bucket_size: int, shared_bytes: int, row_bytes: int = ROW_BYTES) -> int | None:
    """Return how many elements a block takes at once, or ``None`` when the buckets need several kernels.

    One kernel serves multiples of 1024 and powers of two from 64 on, as long as a bucket fits ``shared_bytes`` at
    ``row_bytes`` for 32 elements.
    """
    power_of_two = bucket_size & (bucket_size - 1) == 0
    if bucket_size % TILE and not (power_of_two and bucket_size >= SMALLEST_FUSED_BUCKET):
        return None
    chunk = max(WHOLE_CHUNK // bucket_size, 1) * bucket_size
    return chunk if chunk <= LARGEST_CHUNK and chunk // LANES * row_bytes <= shared_bytes else None


def workplace(bucket_size: int, shared_bytes: int) -> tuple[int, int]:
    """Return how many elements, whole buckets, a block rotates, and the bytes of shared memory that it needs for them.

    Buckets too large for it are rotated in device memory, one a block: no bytes are needed.
    """
    chunk = max(WHOLE_CHUNK // bucket_size, 1) * bucket_size
    needed = -(-chunk // LANES) * GAPPED_ROW_BYTES
    return (chunk, needed) if chunk <= LARGEST_CHUNK and needed <= shared_bytes else (bucket_size, 0)


def key(first: int, second: int) -> Struct:
    """Return the kernels' ``StreamKey``."""
    return _made(_KEY.pack(first, second), KEY)


def group(
    layout: RecordLayout,
    levels: Levels | None = None,
    signs: SignKey = NO_SIGNS,
    strata: Strata = INDEPENDENT,
    unshifted: int = 0,
    holds: bool = True,
) -> Struct:
    """Return the kernels' ``Group``.

    Args:
        levels: under which records are dithered, where they are.
        signs: with which an encoder rotates; a decoder finds them in the record.
        strata: of an encoder that draws from some.
        unshifted: address of uint32[PERIOD], for which ``begin_record`` finds those strata.
        holds: an encoder may keep buckets in registers, if they are such.
    """
    before, (tiles_log2, scale) = _constants(layout.quantiser)
    if not holds:
        tiles_log2 = NOT_HELD
    width = dither_width(levels) if levels is not None and layout.quantiser.dither else 0.0
    dealt = _ALONE if strata.parts == 1 else _dealt(strata)
    return _made(_GROUP.pack(layout.elements, *before, *signs, tiles_log2, scale, unshifted, width, *dealt), GROUP)


def dither_width(levels: Levels) -> float:
    """Return what a draw, less its mean, is multiplied by before it is added to its level: see ``strata.dither``."""
    return float(levels.dither * np.float32(2.0**-DRAW_BITS))


_ALONE = (0, 0, 0, 1, 0, 0)


def _dealt(strata: Strata) -> tuple[int, ...]:
    return DRAW_BITS - own_bits(strata.parts), *strata, polynomial_of(strata.parts)


@lru_cache(maxsize=256)
def _constants(config: QuantiserConfig) -> tuple[tuple[float, ...], tuple[int, float]]:
    """Return what ``group`` says of a configuration, before the signs and behind them."""
    reach = config.reach if config.rounding == "nearest" else 0.0
    before = (config.bucket_size, int(config.norm == "linf"), config.rounds, config.clip or 0.0, reach)
    return before, (held_log2(config), block_scale(config.bucket_size))


def held_log2(config: QuantiserConfig) -> int:
    """Return the logarithm of the tiles of a bucket that encoders keep in registers, or -1: see ``cuda/held.cuh``.

    Those are buckets of 1024, 2048, 4096 and 8192 coordinates that are not clipped.
    """
    tiles = config.bucket_size // TILE
    held = config.bucket_size in (TILE, 2 * TILE, 4 * TILE, 8 * TILE) and not config.clip
    return tiles.bit_length() - 1 if held else NOT_HELD


def record_plan(layout: RecordLayout, stamp: Stamp, named: tuple[int, ...]) -> Struct:
    """Return the kernels' ``RecordPlan``; ``named`` is what names the signs and the draws, four words each, or none."""
    words = _WORDS.pack(layout.codes_offset // 4, layout.payload_bytes // 4, layout.record_bytes // 4)
    return _made(
        words + header(layout, stamp)[:28] + (_NAMED.pack(*(named + _NOTHING)[:8]) if named else _NO_NAMES), RECORD_PLAN
    )


def tensors(data: int, ends: int, residual: int, count: int) -> Struct:
    """Return the kernels' ``Tensors``: addresses of uint64[count], uint32[count] and, or 0, float32[elements]."""
    return _made(_TENSORS.pack(data, ends, residual, count, 0), TENSORS)


def records(layout: RecordLayout, stamp: Stamp, data: int, senders: int, count: int) -> Struct:
    """Return the kernels' ``Records``; ``data`` and ``senders`` are addresses of uint64[count], uint32[count]."""
    return _made(_RECORDS.pack(data, senders, count, layout.codes_offset // 4) + header(layout, stamp)[:24], RECORDS)


def header(layout: RecordLayout, stamp: Stamp) -> bytes:
    """Return the header of a record with 0 for its checksum."""
    return HEADER.pack(*Header.of(layout, stamp, 0))


def _made(data: bytes, dtype: np.dtype[np.void]) -> Struct:
    """Return an array of one structure; NumPy takes ten times as long to fill one field by field."""
    made: Struct = np.frombuffer(data, dtype=dtype)
    return made


def tables(levels: Levels, bits: int, strata: int = 1) -> npt.NDArray[np.float32]:
    """Return float32[4 * 256 + 1], the kernels' ``Tables``: see ``cuda/device.cuh`` and ``csrc/table.h``.

    ``strata`` is how many there are of an encoder: a draw has so many more, or fewer, values.
    """
    count = len(levels)
    padded = np.full(256, np.inf, dtype=np.float32)
    padded[:count] = levels.values
    gaps = np.zeros(256, dtype=np.float32)
    gaps[:count] = levels.inverse_gaps * np.float32(draws_of(strata))
    tree = np.zeros(256, dtype=np.float32)
    for depth in range(bits):
        below = np.arange(2**depth)
        tree[2**depth + below] = padded[(2 * below + 1) << (bits - depth - 1)]
    decoded = padded.copy()
    decoded[count:] = levels.values[-1]
    smallest = np.abs(levels.values[levels.values != 0]).min()
    return np.concatenate([padded, gaps, tree, decoded, [smallest]]).astype(np.float32)


def tables_by_width(levels: LevelsByWidth, config: QuantiserConfig, strata: int = 1) -> npt.NDArray[np.uint8]:
    """Return the bytes of the kernels' ``TablesByWidth``: see ``cuda/shares.cuh``."""
    reach = np.zeros(MAXIMUM_BITS + 1)
    parts = np.zeros((4, 2 ** (MAXIMUM_BITS + 1)), dtype=np.float32)
    smallest, dither = np.zeros((2, MAXIMUM_BITS + 1), dtype=np.float32)
    for width in levels.widths:
        table, count = levels.at(width), 2**width
        *numbers, smallest[width] = tables(table, width, strata)
        parts[:, count : 2 * count] = np.reshape(numbers, (4, 256))[:, :count]
        dither[width] = dither_width(table) if config.dither else 0.0
        reach[width] = config.at(width).reach if config.rounding == "nearest" else 0.0
    return np.frombuffer(b"".join(part.tobytes() for part in (reach, parts, smallest, dither)), dtype=np.uint8)


def ladder(given: Ladder) -> Struct:
    """Return the kernels' ``Ladder``."""
    steps = (*given.steps, *[0] * (MAXIMUM_BITS - len(given.steps)))
    return _made(_LADDER.pack(given.base, len(given.steps), given.keeps_all, *steps), LADDER)


def placing(layout: RecordLayout, levels: LevelsByWidth, places: int) -> Struct:
    """Return the kernels' ``Placing``; ``places`` is the address of uint32[records, places_of(layout)]."""
    offsets = (layout.widths_offset // 4, layout.codes_offset // 4)
    return _made(_PLACING.pack(*offsets, layout.word_rows, places_of(layout), places, levels.lowest), PLACING)


UNPLACED: Struct = np.zeros((), dtype=PLACING)
"""``Placing`` of records whose codes have one width."""


def places_of(layout: RecordLayout) -> int:
    """Return how many numbers say where the blocks of a record lie."""
    return -(-layout.blocks // PLACED) + 1


def row_bytes(config: QuantiserConfig) -> int:
    """Return the bytes of shared memory that 32 elements of a chunk take."""
    return GAPPED_ROW_BYTES if config.rotate else ROW_BYTES


def summed_row_bytes(config: QuantiserConfig) -> int:
    """Return the same for a chunk beside which the sum of runs lies."""
    return row_bytes(config) + ROW_BYTES


def decode_blocks(elements: int, warps: int) -> int:
    """Return how many blocks of ``warps`` warps, a tile each, cover ``elements``."""
    return -(-elements // (warps * LANES * (TILE // LANES)))
