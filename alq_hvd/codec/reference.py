"""The NumPy codec: the readable specification of the bytes, and the oracle of every other codec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import numpy.typing as npt

from alq_hvd.codec.arguments import require_decodable, require_encodable, require_values
from alq_hvd.codec.arrays import FloatArray, HostArrays, Record
from alq_hvd.codec.base import Codec
from alq_hvd.codec.keys import SignKey, StreamKey, random_bits
from alq_hvd.codec.packing import Codes, pack, unpack
from alq_hvd.codec.rotation import rotate_values, rotate_values_back, rotation_words, sign_key
from alq_hvd.codec.strata import DRAW_BITS, dither, draws, draws_of, draws_words
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.levels_by_width import AnyLevels, LevelsByWidth
from alq_hvd.quantiser.record import RecordLayout, Stamp, seal
from alq_hvd.quantiser.statistics import GradientStatistics
from alq_hvd.quantiser.widths import DRAW_INDEX, WHOLE, Ladder, is_broken, share_out

SUM_LANES = 1024
SMALLEST_NORM = np.finfo(np.float32).tiny
LARGEST_NORM = np.finfo(np.float32).max


@dataclass(frozen=True, slots=True)
class ReferenceCodec(Codec[FloatArray, Record]):
    """Encode and decode with NumPy, about seventy times slower than the native codec."""

    name: str = "reference"
    arrays: HostArrays = field(default_factory=HostArrays, repr=False)

    def encode(
        self,
        values: FloatArray,
        layout: RecordLayout,
        levels: AnyLevels,
        key: StreamKey,
        stamp: Stamp,
        residual: FloatArray | None = None,
    ) -> Record:
        """Return the sealed record of ``values``; see ``Codec.encode``."""
        require_encodable(values, layout, levels, key, residual)
        if residual is not None:
            values = values + residual
        record = layout.new_record()
        layout.rotation(record)[:] = rotation_words(key, layout.quantiser)
        layout.draws(record)[:] = draws_words(key, layout.quantiser)
        if isinstance(levels, LevelsByWidth):
            _encode_by_width(values, record, layout, levels, key, keeps_all=residual is None)
        else:
            layout.norms(record)[:], codes = quantise(values, layout.quantiser, levels, key)
            layout.words(record)[:] = pack(codes, layout)
        seal(record, layout, stamp)
        if residual is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                rest = values - sum_records([record], layout, levels)
            residual[:] = np.where(np.isfinite(rest), rest, np.float32(0))
        return record

    def decode_sum(
        self,
        records: Sequence[Record],
        layout: RecordLayout,
        levels: AnyLevels,
        stamps: Sequence[Stamp],
        scale: float,
        out: FloatArray | None = None,
    ) -> FloatArray:
        """Return the scaled sum of the decoded records; see ``Codec.decode_sum``."""
        require_decodable(records, layout, levels, stamps)
        if out is not None:
            require_values(out, layout.elements)
        total = sum_records(records, layout, levels)
        result = np.empty_like(total) if out is None else out
        np.multiply(total, np.float32(scale), out=result)
        return result

    def raise_for_damage(self) -> None:
        """Do nothing: ``decode_sum`` raises at once."""

    def statistics(self, values: FloatArray, config: QuantiserConfig, weight_exponent: int) -> GradientStatistics:
        """Return the summary of the normalised coordinates of ``values``; see ``Codec.statistics``."""
        require_values(values)
        buckets = prepare(values, config, SignKey(), 0)
        norms = normalisers(buckets, config, len(values))
        normalised = np.clip(_normalise(buckets, norms), -1, 1)
        total, whole = GradientStatistics.empty(weight_exponent), len(values) // config.bucket_size
        parts = ((slice(whole), config.bucket_size), (slice(whole, None), len(values) % config.bucket_size))
        for rows, size in parts:
            if len(norms[rows]):
                total += GradientStatistics.from_normalised(
                    normalised[rows, :size],
                    norms[rows],
                    weight_exponent=weight_exponent,
                    complete=size == config.bucket_size,
                )
        return total


def quantise(values: FloatArray, config: QuantiserConfig, levels: Levels, key: StreamKey) -> tuple[FloatArray, Codes]:
    """Return the norms float32[buckets] and the codes uint32[elements] of ``values``.

    1. Rotate each bucket, when asked, and clamp it to ``clip`` standard deviations, when asked (TernGrad's order: clip,
       then scale).
    2. Take its norm S: NaN if any coordinate is not finite, zero if below the smallest normal float32.
    3. Normalise, r = v / S, and clamp r to the ends of the levels.
    4. Find the bin l_j <= r < l_{j+1}; emit j + 1 when (r - l_j) / (l_{j+1} - l_j) exceeds a uniform number, else j.
       Rounding to the nearest is the same with 1/2 for the uniform number. Both sides are integers' worth: multiplied
       by the number of values that a draw has.
    5. Rounded to the nearest, send |v|^2 / <v, l_code> instead of S: with it the decoded bucket has the projection on v
       that v has.

    References:
        Faghri et al., Adaptive Gradient Quantization for Data-Parallel SGD, NeurIPS 2020, section 3 (stochastic
        rounding to arbitrary levels); spec section 2. The scale of step 5: Vargaftik et al., EDEN, ICML 2022.
    """
    elements = len(values)
    buckets = prepare(values, config, sign_key(key, config), key.first_element)
    norms = normalisers(buckets, config, elements)
    table = levels.values
    normalised = np.clip(_normalise(buckets, norms).reshape(-1)[:elements], table[0], table[-1])
    lower = np.searchsorted(table, normalised, side="right") - 1
    if config.rounding == "nearest":
        drawn, possible = np.full(elements, 2 ** (DRAW_BITS - 1), dtype=np.float32), 2**DRAW_BITS
    else:
        drawn, possible = draws(key, elements).astype(np.float32), draws_of(key.strata.parts)
    up = (normalised - table[lower]) * (levels.inverse_gaps * np.float32(possible))[lower] > drawn
    codes = (lower + up).astype(np.uint32)
    silent = np.repeat(~(norms > 0), config.bucket_size)[:elements]
    codes[silent] = 0
    if config.rounding == "nearest":
        norms = _projection_scales(buckets, norms, _buckets(table[codes], config.bucket_size))
    return norms, codes


def _encode_by_width(
    values: FloatArray, record: Record, layout: RecordLayout, levels: LevelsByWidth, key: StreamKey, keeps_all: bool
) -> None:
    """Write norms, widths and codes of ``values``, every block as a record of its own would have them.

    A block that was kept by chance has norms that make up for it; one without bits has none, but for broken buckets.
    """
    config = layout.quantiser
    draw = int(random_bits(key, np.array([key.first_element + DRAW_INDEX], dtype=np.uint32))[0]) >> 16
    energies = bucket_energies(values, config)
    widths, chances = share_out(energies, layout, Ladder.of(levels, keeps_all), draw)
    layout.widths(record)[:] = widths
    sent, words, row = layout.norms(record), layout.words(record), 0
    for block, (width, chance) in enumerate(zip(widths.tolist(), chances.tolist(), strict=True)):
        first = block * config.block_size
        part = values[first : first + config.block_size]
        buckets = slice(first // config.bucket_size, (first + len(part) - 1) // config.bucket_size + 1)
        if not width:
            sent[buckets] = np.where(is_broken(energies[buckets]), np.float32(np.nan), np.float32(0))
            continue
        own = RecordLayout(len(part), config.at(width))
        norms, codes = quantise(part, own.quantiser, levels.at(width), key.at(key.first_element + first))
        with np.errstate(over="ignore"):
            louder = (norms.astype(np.float64) * WHOLE / chance).astype(np.float32)
        sent[buckets] = np.where(louder > LARGEST_NORM, LARGEST_NORM, louder)
        words[row : row + own.word_rows] = pack(codes, own)
        row += own.word_rows
    words[row:] = 0


def bucket_energies(values: FloatArray, config: QuantiserConfig) -> npt.NDArray[np.float64]:
    """Return float64[buckets]: by how much error each bucket counts when bits are shared out.

    That is the square of its norm or, where buckets are rotated, which changes no length, of its Euclidean length.
    """
    if config.rotate:
        return lane_sums(_buckets(values, config.bucket_size).astype(np.float64) ** 2)
    norms = bucket_norms(prepare(values, config, SignKey(), 0), config.norm)
    return norms.astype(np.float64) ** 2


def decoded(record: Record, layout: RecordLayout, levels: AnyLevels) -> FloatArray:
    """Return float32[elements]: the level of each coordinate, dithered where the record is."""
    if isinstance(levels, LevelsByWidth):
        parts, words, row = [np.zeros(0, dtype=np.float32)], layout.words(record), 0
        for block, width in enumerate(layout.widths(record).tolist()):
            elements = layout.elements_of_block(block)
            if not width:
                parts.append(np.zeros(elements, dtype=np.float32))
                continue
            own = RecordLayout(elements, layout.quantiser.at(width))
            draws = layout.draws(record).copy()
            draws[2:3] += np.uint32(block * layout.quantiser.block_size)
            parts.append(_levels_of(words[row : row + own.word_rows], own, levels.at(width), draws))
            row += own.word_rows
        return np.concatenate(parts)
    return _levels_of(layout.words(record), layout, levels, layout.draws(record))


def _levels_of(words: Codes, layout: RecordLayout, levels: Levels, draws_named: Codes) -> FloatArray:
    found = levels.values[np.minimum(unpack(words, layout), len(levels) - 1)]
    return found + dither(draws_named, layout.elements, levels.dither) if layout.quantiser.dither else found


def sum_records(records: Sequence[Record], layout: RecordLayout, levels: AnyLevels) -> FloatArray:
    """Return float32[elements]: the sum of the decoded records, in the order given.

    Neighbours in that order which share their rotation are added before they are rotated back, once.
    """
    config, total = layout.quantiser, np.zeros(layout.elements, dtype=np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for rotation, run in groupby(records, lambda record: tuple(layout.rotation(record).tolist())):
            part = np.zeros(layout.elements, dtype=np.float32)
            for record in run:
                norms = np.repeat(layout.norms(record), config.bucket_size)[: layout.elements]
                part += norms * decoded(record, layout, levels)
            if rotation:
                first, second, start, _ = rotation
                part = rotate_values_back(part, config, SignKey(first, second), start)
            total += part
    return total


def prepare(values: FloatArray, config: QuantiserConfig, signs: SignKey, first_element: int) -> FloatArray:
    """Return float32[buckets, bucket_size]: the buckets as they are quantised, rotated and clipped when asked.

    The last one is filled up with zeros *after* that.
    """
    if config.rotate:
        values = rotate_values(values, config, signs, first_element)
    return clip_buckets(_buckets(values, config.bucket_size), len(values), config.clip)


def normalisers(buckets: FloatArray, config: QuantiserConfig, elements: int) -> FloatArray:
    """Return float32[buckets]: what the coordinates of each row are divided by.

    That is the norm; for rounding to the nearest it is the outermost level's share of the standard deviation (about
    zero), so that one table serves buckets of every size.
    """
    if config.rounding == "stochastic":
        return bucket_norms(buckets, config.norm)
    size = buckets.shape[1]
    counts = np.minimum(size, elements - size * np.arange(len(buckets), dtype=np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        deviations = np.sqrt(lane_sums(buckets.astype(np.float64) ** 2) / counts)
        return _sendable((deviations * config.reach).astype(np.float32))


def bucket_norms(buckets: FloatArray, norm: str) -> FloatArray:
    """Return float32[buckets]: the norm of each row of float32[buckets, bucket_size], as it is sent."""
    with np.errstate(over="ignore"):
        if norm == "linf":
            norms = np.abs(buckets).max(axis=1, initial=0)
        else:
            norms = np.sqrt(lane_sums(buckets.astype(np.float64) ** 2)).astype(np.float32)
    return _sendable(norms)


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


def _sendable(norms: FloatArray) -> FloatArray:
    """Return NaN for norms that are not finite, zero for those too small to normalise."""
    finite = np.isfinite(norms)
    norms = np.where(finite & (norms < SMALLEST_NORM), np.float32(0), norms)
    return np.where(finite, norms, np.float32(np.nan))


def _projection_scales(buckets: FloatArray, norms: FloatArray, chosen: FloatArray) -> FloatArray:
    """Return float32[buckets]: |v|^2 / <v, chosen levels>; the normaliser where that is not positive and finite."""
    wide = buckets.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scales = _sendable((lane_sums(wide * wide) / lane_sums(wide * chosen.astype(np.float64))).astype(np.float32))
    return np.where((norms > 0) & (scales > 0), scales, norms)


def _buckets(values: FloatArray, bucket_size: int) -> FloatArray:
    """Return float32[buckets, bucket_size], the last bucket filled up with zeros."""
    buckets = np.zeros((-(-len(values) // bucket_size), bucket_size), dtype=np.float32)
    buckets.reshape(-1)[: len(values)] = values
    return buckets


def _normalise(buckets: FloatArray, norms: FloatArray) -> FloatArray:
    """Return float32[buckets, bucket_size] coordinates divided by their norm; zeros where the norm is zero or NaN."""
    safe = np.where(norms > 0, norms, np.float32(1))[:, None]
    return np.where(norms[:, None] > 0, buckets / safe, np.float32(0))
