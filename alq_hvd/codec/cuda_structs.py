"""What the CUDA kernels take by value, laid out as ``cuda/*.cuh`` declares it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alq_hvd.config import QuantiserConfig
from alq_hvd.levels import Levels
from alq_hvd.wire import HEADER, LANES, TILE, Header, RecordLayout, Stamp

Struct = npt.NDArray[np.void]

KEY = np.dtype([("first", "<u4"), ("second", "<u4")])
GROUP = np.dtype(
    [("elements", "<u4"), ("bucket_size", "<u4"), ("maximum_norm", "<u4"), ("reserved", "<u4"), ("clip", "<f8")]
)
TENSORS = np.dtype([("data", "<u8"), ("ends", "<u8"), ("residual", "<u8"), ("count", "<u4"), ("reserved", "<u4")])
RECORD_PLAN = np.dtype([("codes_offset", "<u4"), ("payload", "<u4"), ("record", "<u4"), ("header", "<u4", 7)])
RECORDS = np.dtype(
    [("data", "<u8"), ("senders", "<u8"), ("count", "<u4"), ("codes_offset", "<u4"), ("expected", "<u4", 6)]
)
BINS = np.dtype([("octaves", "<i4"), ("per_octave_log2", "<i4"), ("weight_exponent", "<i4")])

WHOLE_CHUNK = 8192
"""Elements that a block encodes, where buckets are not larger: 32 KiB of its shared memory."""
LARGEST_CHUNK = 49_152
"""192 KiB: the largest bucket that the shared memory of a block holds beside its tables (A100: 163 KiB, H100: 227)."""
SMALLEST_FUSED_BUCKET = 64


def chunk_size(bucket_size: int, shared_bytes: int = 4 * LARGEST_CHUNK) -> int | None:
    """Return how many elements a block encodes in one reading, or ``None`` when the buckets need two.

    One reading serves multiples of 1024 and powers of two from 64 on, as long as a bucket fits ``shared_bytes``.
    """
    power_of_two = bucket_size & (bucket_size - 1) == 0
    if bucket_size % TILE and not (power_of_two and bucket_size >= SMALLEST_FUSED_BUCKET):
        return None
    chunk = max(WHOLE_CHUNK // bucket_size, 1) * bucket_size
    return chunk if 4 * chunk <= shared_bytes else None


def key(first: int, second: int) -> Struct:
    """Return the kernels' ``StreamKey``."""
    return np.array((first, second), dtype=KEY)


def group(layout: RecordLayout) -> Struct:
    """Return the kernels' ``Group``."""
    config: QuantiserConfig = layout.quantiser
    values = (layout.elements, config.bucket_size, config.norm == "linf", 0, config.clip or 0.0)
    return np.array(values, dtype=GROUP)


def record_plan(layout: RecordLayout, stamp: Stamp) -> Struct:
    """Return the kernels' ``RecordPlan``: offsets in 32-bit words, and the header but for its checksum."""
    words = (layout.codes_offset // 4, layout.payload_bytes // 4, layout.record_bytes // 4)
    return np.array((*words, header_words(layout, stamp)), dtype=RECORD_PLAN)


def records(layout: RecordLayout, stamp: Stamp, data: int, senders: int, count: int) -> Struct:
    """Return the kernels' ``Records``; ``data`` and ``senders`` are addresses of uint64[count], uint32[count]."""
    expected = header_words(layout, stamp)[:6]
    return np.array((data, senders, count, layout.codes_offset // 4, expected), dtype=RECORDS)


def header_words(layout: RecordLayout, stamp: Stamp) -> npt.NDArray[np.uint32]:
    """Return uint32[7]: the header of a record without its checksum."""
    return np.frombuffer(HEADER.pack(*Header.of(layout, stamp, 0)), dtype="<u4")[:7]


def tables(levels: Levels, bits: int) -> npt.NDArray[np.float32]:
    """Return float32[4 * 256 + 1], the kernels' ``Tables``: see ``cuda/device.cuh`` and ``csrc/table.h``."""
    count = len(levels)
    padded = np.full(256, np.inf, dtype=np.float32)
    padded[:count] = levels.values
    gaps = np.zeros(256, dtype=np.float32)
    gaps[:count] = levels.inverse_gaps * np.float32(2**24)
    tree = np.zeros(256, dtype=np.float32)
    for depth in range(bits):
        below = np.arange(2**depth)
        tree[2**depth + below] = padded[(2 * below + 1) << (bits - depth - 1)]
    decoded = padded.copy()
    decoded[count:] = levels.values[-1]
    smallest = np.abs(levels.values[levels.values != 0]).min()
    return np.concatenate([padded, gaps, tree, decoded, [smallest]]).astype(np.float32)


def decode_blocks(elements: int, warps: int) -> int:
    """Return how many blocks of ``warps`` warps, a tile each, cover ``elements``."""
    return -(-elements // (warps * LANES * (TILE // LANES)))
