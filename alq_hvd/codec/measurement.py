"""Fit a method to one gradient and measure it: exact expectations in float64, and draws of the codec itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alq_hvd.codec.choice import choose_codec
from alq_hvd.codec.keys import StreamKey, stream_key
from alq_hvd.codec.reference import ReferenceCodec, bucket_norms, clip_buckets, quantise
from alq_hvd.codec.rotation import gain, rotate_values, rotate_values_back, sign_key
from alq_hvd.codec.strata import strata_for
from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.levels_by_width import AnyLevels, LevelsByWidth
from alq_hvd.quantiser.methods import Method
from alq_hvd.quantiser.policies import LevelUpdate, Policy
from alq_hvd.quantiser.record import RecordLayout, Stamp
from alq_hvd.quantiser.statistics import GradientStatistics
from alq_hvd.quantiser.theory import bytes_fixed, bytes_ideal, entropy_bits

Values = npt.NDArray[np.float32]
CHUNK = 2**20
"""Coordinates worked on at a time: the memory needed does not grow with the gradient."""
TOGETHER = 2**15
"""Coordinates of each rank, where ranks are measured together."""
ROTATED_COORDINATES, MOST_ROTATIONS = 2**20, 16
"""A rotated gradient is measured under several signs until so many coordinates were seen: small ones vary with them."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Hold what a table of levels does to one gradient g.

    Attributes:
        relative_variance: E|Q(g) - g|^2 / |g|^2 over all coordinates, clipping and clamping counted.
        sampled: the same, the mean over draws of the reference codec.
        entropy: bits a coordinate an ideal coder would take for the codes.
        fixed: bytes of the packed codes and norms.
        ideal: the same with an ideal coder.
    """

    relative_variance: float
    sampled: float
    entropy: float
    fixed: int
    ideal: int


def fit(values: Values, method: Method, config: QuantiserConfig) -> LevelUpdate:
    """Return one adaptation of ``method``, from its first levels, to the gradient float32[n]."""
    return fit_levels(values, method.policy, method.initial(config.bits), config)


def fit_levels(values: Values, policy: Policy, initial: AnyLevels, config: QuantiserConfig) -> LevelUpdate:
    """Return one adaptation by ``policy``, from the levels ``initial``, to the gradient float32[n]."""
    statistics = GradientStatistics.empty(policy.weight_exponent)
    for chunk in chunks(values, config.bucket_size):
        statistics += ReferenceCodec().statistics(chunk, config, policy.weight_exponent)
    return policy.update(statistics, initial)


def measure(values: Values, config: QuantiserConfig, levels: AnyLevels, *, draws: int, seed: int = 0) -> Measured:
    """Return what ``levels`` do to the gradient float32[n].

    The expectation is over the rounding; where buckets are rotated, it is the mean over some draws of the signs.

    Raises:
        ConfigurationError: when the norm of a bucket is beyond float32.
    """
    if isinstance(levels, LevelsByWidth):
        return _measured_by_width(values, config, levels, max(draws, 1), seed)
    energy = error = sampled = 0.0
    chosen = np.zeros(len(levels))
    rotations = min(max(ROTATED_COORDINATES // len(values), 1), MOST_ROTATIONS) if config.rotate else 1
    for index, chunk in enumerate(chunks(values, config.bucket_size)):
        energy += float(np.square(chunk, dtype=np.float64).sum())
        keys = [stream_key(seed=seed, step=draw, rank=0, group=index, shot=0) for draw in range(max(draws, rotations))]
        for key in keys[:rotations]:
            part, counts = _expected(chunk, config, levels, key)
            error += part / rotations
            chosen += counts / rotations
        sampled += sum(_drawn(chunk, config, levels, key)[0] for key in keys[:draws]) / max(draws, 1)
    entropy = entropy_bits(chosen / len(values))
    return Measured(
        error / energy,
        sampled / energy if draws else float("nan"),
        entropy,
        bytes_fixed(len(values), config.bits, config.bucket_size),
        bytes_ideal(len(values), entropy, config.bucket_size),
    )


def _measured_by_width(
    values: Values, config: QuantiserConfig, levels: LevelsByWidth, draws: int, seed: int
) -> Measured:
    """Return what draws of a codec, of the whole gradient at once, do: no expectation in closed form, no entropy."""
    error = 0.0
    for draw in range(draws):
        key = stream_key(seed=seed, step=draw, rank=0, group=0, shot=0)
        decoded = _decoded_by_width(values, config, levels, key)
        error += float(np.square(decoded.astype(np.float64) - values).sum()) / draws
    variance = error / float(np.square(values, dtype=np.float64).sum())
    size = RecordLayout(len(values), config).payload_bytes
    return Measured(variance, variance, float("nan"), size, size)


def _decoded_by_width(values: Values, config: QuantiserConfig, levels: LevelsByWidth, key: StreamKey) -> Values:
    layout, stamp, codec = RecordLayout(len(values), config), Stamp(levels.digest, 0, 0), choose_codec("auto")
    record = codec.encode(values, layout, levels, key, stamp)
    decoded: Values = codec.decode_sum([record], layout, levels, [stamp], 1.0)
    return decoded


def share_left_together(values: Values, config: QuantiserConfig, levels: AnyLevels, ranks: int, seed: int = 0) -> float:
    """Return what ranks that round together leave of the error of the mean of n independent roundings.

    Measured by the reference codec on unrelated gradients: the buckets of ``values``, dealt out to ranks at random.
    Gradients that have something in common leave less.

    Args:
        values: float32[n], drawn from with replacement.
        config: rounds stochastically.
        levels: of the quantiser.
        ranks: n.
        seed: of the draw.
    """
    size, generator = config.bucket_size, np.random.default_rng(seed)
    rows = np.resize(values, (max(len(values) // size, 1), size))
    errors = dict.fromkeys((1, strata_for(ranks)), 0.0)
    count = max(TOGETHER // size, 1)
    # Shuffled within: gradients of one model put large coordinates in the same places, which is not unrelated.
    picked = [
        generator.permuted(rows[generator.integers(len(rows), size=count)], axis=1).reshape(-1) for _ in range(ranks)
    ]
    for strata in errors:
        off = np.zeros(len(picked[0]))
        for rank, part in enumerate(picked):
            key = stream_key(seed=seed, step=0, rank=rank, group=0, shot=0, strata=strata)
            if isinstance(levels, LevelsByWidth):
                decoded = _decoded_by_width(part, config, levels, key)
            else:
                decoded, _ = _decoded(part, config, levels, key)
            off += decoded.astype(np.float64) - part
        errors[strata] = float(np.square(off).sum())
    alone, together = errors[1], errors[strata_for(ranks)]
    return min(together / alone, 1.0) if alone else 1.0


def chunks(values: Values, bucket_size: int) -> Iterator[Values]:
    """Yield parts of whole buckets, about a million coordinates each; the last one ends with the short bucket."""
    step = max(CHUNK // bucket_size, 1) * bucket_size
    for start in range(0, len(values), step):
        yield values[start : start + step]


def _rows(chunk: Values, bucket_size: int) -> Iterator[Values]:
    """Yield the full buckets as float32[buckets, bucket_size], then the short one as float32[1, rest]."""
    whole = len(chunk) - len(chunk) % bucket_size
    for part in (chunk[:whole].reshape(-1, bucket_size), chunk[None, whole:]):
        if part.size:
            yield part


def _drawn(
    chunk: Values, config: QuantiserConfig, levels: Levels, key: StreamKey
) -> tuple[float, npt.NDArray[np.float64]]:
    """Return |Q(g) - g|^2 of one draw of the reference codec, and how often it chose each code."""
    decoded, codes = _decoded(chunk, config, levels, key)
    error = float(np.square(decoded.astype(np.float64) - chunk).sum())
    return error, np.bincount(codes, minlength=len(levels)).astype(np.float64)


def _decoded(
    chunk: Values, config: QuantiserConfig, levels: Levels, key: StreamKey
) -> tuple[Values, npt.NDArray[np.uint32]]:
    """Return what a record of ``chunk`` decodes to, and its codes."""
    norms, codes = quantise(chunk, config, levels, key)
    decoded: Values = np.repeat(norms, config.bucket_size)[: len(chunk)] * levels.values[codes]
    if config.rotate:
        decoded = rotate_values_back(decoded, config, sign_key(key, config), key.first_element)
    return decoded, codes


def _expected(
    chunk: Values, config: QuantiserConfig, levels: Levels, key: StreamKey
) -> tuple[float, npt.NDArray[np.float64]]:
    """Return E|Q(g) - g|^2 of some buckets, and how often each code is expected."""
    if config.rounding == "nearest":
        return _drawn(chunk, config, levels, key)  # nothing is left to chance but the signs
    if config.rotate:
        chunk = rotate_values(chunk, config, sign_key(key, config), key.first_element)
    error, counts = 0.0, np.zeros(len(levels))
    for rows in _rows(chunk, config.bucket_size):
        part, chosen = _expected_of_rows(rows, config, levels)
        error += part / gain(rows.shape[1], config.rounds)
        counts += chosen
    return error, counts


def _expected_of_rows(rows: Values, config: QuantiserConfig, levels: Levels) -> tuple[float, npt.NDArray[np.float64]]:
    """Return the error of buckets of equal size, as they are quantised, and how often each code is expected.

    A coordinate between levels l and u of a bucket of norm S has variance S^2 (u - r)(r - l), r = g / S. What
    clipping and clamping take away is a bias, and counts squared.
    """
    norms = bucket_norms(clip_buckets(rows, rows.size, config.clip), config.norm).astype(np.float64)[:, None]
    if not np.isfinite(norms).all():
        raise ConfigurationError(f"the {config.norm} norm of a bucket is beyond float32: scale the gradient down")
    table = levels.values.astype(np.float64)
    silent = norms == 0
    exact = rows.astype(np.float64)
    clipped = clip_buckets(rows, rows.size, config.clip).astype(np.float64)
    r = np.clip(clipped / np.where(silent, 1, norms), table[0], table[-1])
    low = np.clip(np.searchsorted(table, r, side="right") - 1, 0, len(table) - 2)
    above, below = table[low + 1] - r, r - table[low]
    errors = np.square(norms * r - exact) + np.square(norms) * above * below
    up = np.where(silent, 0, below / (above + below))
    low = np.where(silent, 0, low).ravel()
    counts = np.bincount(low, (1 - up).ravel(), len(table)) + np.bincount(low + 1, up.ravel(), len(table))
    return float(errors.sum()), counts.astype(np.float64)
