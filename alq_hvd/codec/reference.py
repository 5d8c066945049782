"""The NumPy codec: the readable specification of the bytes, and the oracle of every other codec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alq_hvd.codec.arguments import require_decodable, require_encodable, require_values
from alq_hvd.codec.base import FloatArray, Record
from alq_hvd.codec.keys import StreamKey
from alq_hvd.config import QuantiserConfig
from alq_hvd.levels import Levels
from alq_hvd.statistics import GradientStatistics
from alq_hvd.wire import LANES, TILE, RecordLayout, Stamp, seal

SUM_LANES = 1024
SMALLEST_NORM = np.finfo(np.float32).tiny
Codes = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class ReferenceCodec:
    """Encode and decode with NumPy, about seventy times slower than the native codec."""

    name: str = "reference"

    def encode(self, values: FloatArray, layout: RecordLayout, levels: Levels, key: StreamKey, stamp: Stamp) -> Record:
        """Return the sealed record of ``values``; see ``Codec.encode``."""
        require_encodable(values, layout, levels)
        record = layout.new_record()
        norms, codes = quantise(values, layout.quantiser, levels, key)
        layout.norms(record)[:] = norms
        layout.words(record)[:] = pack(codes, layout)
        seal(record, layout, stamp)
        return record

    def decode_sum(
        self,
        records: Sequence[Record],
        layout: RecordLayout,
        levels: Levels,
        stamps: Sequence[Stamp],
        scale: float,
        out: FloatArray | None = None,
    ) -> FloatArray:
        """Return the scaled sum of the decoded records; see ``Codec.decode_sum``."""
        require_decodable(records, layout, levels, stamps)
        if out is not None:
            require_values(out, layout.elements)
        total = np.zeros(layout.elements, dtype=np.float32)
        for record in records:
            codes = np.minimum(unpack(layout.words(record), layout), len(levels) - 1)
            norms = np.repeat(layout.norms(record), layout.quantiser.bucket_size)[: layout.elements]
            with np.errstate(invalid="ignore", over="ignore"):
                total += norms * levels.values[codes]
        result = np.empty_like(total) if out is None else out
        np.multiply(total, np.float32(scale), out=result)
        return result

    def statistics(self, values: FloatArray, config: QuantiserConfig, weight_exponent: int) -> GradientStatistics:
        """Return the summary of the normalised coordinates of ``values``."""
        require_values(values)
        total = GradientStatistics.empty(weight_exponent)
        whole = len(values) - len(values) % config.bucket_size
        for part, complete in ((values[:whole], True), (values[whole:], False)):
            if part.size:
                buckets = clip_buckets(_buckets(part, config.bucket_size), len(part), config.clip)
                norms = bucket_norms(buckets, config.norm)
                normalised = _normalise(buckets, norms)[:, : len(part) if not complete else None]
                total += GradientStatistics.from_normalised(
                    normalised, norms, weight_exponent=weight_exponent, complete=complete
                )
        return total


def quantise(values: FloatArray, config: QuantiserConfig, levels: Levels, key: StreamKey) -> tuple[FloatArray, Codes]:
    """Return the norms float32[buckets] and the codes uint32[elements] of ``values``.

    1. Clamp each bucket to ``clip`` standard deviations, when asked (TernGrad's order: clip, then scale).
    2. Take its norm S: NaN if any coordinate is not finite, zero if below the smallest normal float32.
    3. Normalise, r = v / S, and clamp r to the ends of the levels.
    4. Find the bin l_j <= r < l_{j+1}; emit j + 1 when (r - l_j) / (l_{j+1} - l_j) exceeds a uniform number, else j.

    References:
        Faghri et al., Adaptive Gradient Quantization for Data-Parallel SGD, NeurIPS 2020, section 3 (stochastic
        rounding to arbitrary levels); spec section 2.
    """
    elements = len(values)
    buckets = clip_buckets(_buckets(values, config.bucket_size), elements, config.clip)
    norms = bucket_norms(buckets, config.norm)
    table = levels.values
    normalised = np.clip(_normalise(buckets, norms).reshape(-1)[:elements], table[0], table[-1])
    lower = np.searchsorted(table, normalised, side="right") - 1
    index = np.arange(elements, dtype=np.uint32) + np.uint32(key.first_element)
    uniform = (random_bits(key, index) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
    up = (normalised - table[lower]) * levels.inverse_gaps[lower] > uniform
    codes = (lower + up).astype(np.uint32)
    silent = np.repeat(~(norms > 0), config.bucket_size)[:elements]
    codes[silent] = 0
    return norms, codes


def random_bits(key: StreamKey, index: Codes) -> Codes:
    """Return uint32[n]: the random bits of each element, a hash of its index under two words of key.

    References:
        The rounds are ``lowbias32`` of C. Wellons, "Prospecting for Hash Functions" (2018); the Weyl sequence before
        them and the keys are ours.
    """
    x = index * np.uint32(0x9E3779B9) + np.uint32(key.first)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x += np.uint32(key.second)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x


def bucket_norms(buckets: FloatArray, norm: str) -> FloatArray:
    """Return float32[buckets]: the norm of each row of float32[buckets, bucket_size], as it is sent."""
    with np.errstate(over="ignore"):
        if norm == "linf":
            norms = np.abs(buckets).max(axis=1, initial=0)
        else:
            norms = np.sqrt(lane_sums(buckets.astype(np.float64) ** 2)).astype(np.float32)
    finite = np.isfinite(norms)
    norms = np.where(finite & (norms < SMALLEST_NORM), np.float32(0), norms)
    return np.where(finite, norms, np.float32(np.nan))


def lane_sums(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return float64[n]: the sum of each row of float64[n, m], in the order that every codec shares.

    Element i goes to sum i % 1024, in order of i; the 1024 sums are folded in halves.
    """
    count, width = rows.shape
    padded = np.zeros((count, -(-max(width, 1) // SUM_LANES) * SUM_LANES))
    padded[:, :width] = rows
    lanes = np.zeros((count, SUM_LANES))
    for start in range(0, padded.shape[1], SUM_LANES):
        lanes += padded[:, start : start + SUM_LANES]
    half = SUM_LANES // 2
    while half:
        lanes = lanes[:, :half] + lanes[:, half:]
        half //= 2
    return lanes[:, 0]


def clip_buckets(buckets: FloatArray, elements: int, clip: float | None) -> FloatArray:
    """Clamp each bucket to ``clip`` standard deviations; a bucket without spread stays as it is.

    The last bucket counts only its own coordinates: ``elements`` says how many there are in all.

    References:
        Wen et al., TernGrad, NeurIPS 2017, section 3.3 (clip before the scale is taken, c = 2.5).
    """
    if clip is None or not elements:
        return buckets
    wide = buckets.astype(np.float64)
    size = buckets.shape[1]
    counts = np.minimum(size, elements - size * np.arange(len(buckets), dtype=np.float64))
    with np.errstate(invalid="ignore", over="ignore"):
        mean = lane_sums(wide) / counts
        variance = lane_sums(wide * wide) / counts - mean * mean
        limit = np.where(variance > 0, clip * np.sqrt(np.maximum(variance, 0)), np.inf).astype(np.float32)
    limit = limit[:, None]
    clamped = np.where(buckets < -limit, -limit, buckets)
    return np.where(clamped > limit, limit, clamped)


def pack(codes: Codes, layout: RecordLayout) -> Codes:
    """Return uint32[word_rows, 32]: the packed codes, tiles of 32 rows by 32 lanes, low bits first."""
    bits = layout.quantiser.bits
    words = np.zeros((layout.word_rows, LANES), dtype=np.uint32)
    rows = _rows(codes)
    for row, lane_codes in enumerate(rows):
        tile, row_of_tile = divmod(row, TILE // LANES)
        word, shift = divmod(row_of_tile * bits, 32)
        word += tile * bits
        words[word] |= lane_codes << np.uint32(shift)
        if shift + bits > 32:
            words[word + 1] |= lane_codes >> np.uint32(32 - shift)
    return words


def unpack(words: Codes, layout: RecordLayout) -> Codes:
    """Return uint32[elements]: the codes that ``pack`` wrote."""
    bits = layout.quantiser.bits
    rows = np.zeros((-(-layout.elements // LANES), LANES), dtype=np.uint32)
    for row in range(len(rows)):
        tile, row_of_tile = divmod(row, TILE // LANES)
        word, shift = divmod(row_of_tile * bits, 32)
        word += tile * bits
        rows[row] = words[word] >> np.uint32(shift)
        if shift + bits > 32:
            rows[row] |= words[word + 1] << np.uint32(32 - shift)
    return (rows & np.uint32(2**bits - 1)).reshape(-1)[: layout.elements]


def _rows(codes: Codes) -> Codes:
    rows = np.zeros((-(-len(codes) // LANES), LANES), dtype=np.uint32)
    rows.reshape(-1)[: len(codes)] = codes
    return rows


def _buckets(values: FloatArray, bucket_size: int) -> FloatArray:
    """Return float32[buckets, bucket_size], the last bucket filled up with zeros."""
    buckets = np.zeros((-(-len(values) // bucket_size), bucket_size), dtype=np.float32)
    buckets.reshape(-1)[: len(values)] = values
    return buckets


def _normalise(buckets: FloatArray, norms: FloatArray) -> FloatArray:
    """Return float32[buckets, bucket_size] coordinates divided by their norm; zeros where the norm is zero or NaN."""
    safe = np.where(norms > 0, norms, np.float32(1))[:, None]
    return np.where(norms[:, None] > 0, buckets / safe, np.float32(0))
