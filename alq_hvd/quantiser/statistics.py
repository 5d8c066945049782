"""What one adaptation learns from the gradients: a frozen value that adds up across buckets, groups and ranks."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alq_hvd.errors import ConfigurationError, WireFormatError

Float64Array = npt.NDArray[np.float64]

OCTAVES = 16
BINS_PER_OCTAVE_LOG2 = 5
"""A bin is 1/32 octave wide: magnitudes from 2**-16 to 1 fall in 512 bins, smaller ones in one bin beside zero."""
BINS_PER_SIDE = (OCTAVES << BINS_PER_OCTAVE_LOG2) + 1
BINS = 2 * BINS_PER_SIDE
MAXIMUM_BUCKETS = 350
"""Buckets of largest norm whose moments are kept: the paper's ``dist_num`` is 50 to 350."""
_PREFIX = struct.Struct("<4sIQQQdddQ")
_MAGIC = b"ALQS"


def bin_edges() -> Float64Array:
    """Return float64[BINS + 1]: the increasing edges of the histogram, from -1 through 0 to 1.

    Edges are the floats whose mantissa has five bits, so that a bin index is a shift of the float's own bits.
    """
    steps = 1 << BINS_PER_OCTAVE_LOG2
    octave, step = np.divmod(np.arange(OCTAVES * steps + 1), steps)
    positive = np.ldexp(1 + step / steps, octave - OCTAVES)
    return np.concatenate([-positive[::-1], [0.0], positive])


def bin_index(normalised: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return int64[n]: the bin of each float32 coordinate in [-1, 1]; zero counts as positive."""
    bits = np.abs(normalised).view(np.uint32).astype(np.int64)
    first = (127 - OCTAVES) << BINS_PER_OCTAVE_LOG2
    side = np.clip((bits >> (23 - BINS_PER_OCTAVE_LOG2)) - first + 1, 0, BINS_PER_SIDE - 1)
    index: npt.NDArray[np.int64] = np.where(normalised < 0, BINS_PER_SIDE - 1 - side, BINS_PER_SIDE + side)
    return index


@dataclass(frozen=True, eq=False)
class GradientStatistics:
    """Summarise the normalised coordinates of finite, non-zero buckets.

    ``a + b`` is the summary of both; it is associative and commutative up to float64 rounding.

    Attributes:
        weight_exponent: a coordinate of a bucket of norm ``S`` weighs ``S**weight_exponent`` (0, 1 or 2).
        mass: float64[BINS], weight of the coordinates in each bin of ``bin_edges()``.
        first_moment: float64[BINS], weighted sum of the coordinates in each bin.
        second_moment: weighted sum of the squares of all coordinates.
        coordinates: how many coordinates were counted.
        zero_buckets: buckets skipped because their norm is zero.
        non_finite_buckets: buckets skipped because they hold NaN or infinity.
        pooled_sum: unweighted sum of the coordinates (for the -N variants).
        pooled_squares: unweighted sum, over buckets, of the squared deviations from the bucket's own mean.
        buckets: float64[k, 3], norm, mean and unbiased standard deviation of the k complete buckets of largest
            norm, largest first; k is at most 350.
    """

    weight_exponent: int
    mass: Float64Array
    first_moment: Float64Array
    second_moment: float
    coordinates: int
    zero_buckets: int
    non_finite_buckets: int
    pooled_sum: float
    pooled_squares: float
    buckets: Float64Array

    @classmethod
    def empty(cls, weight_exponent: int) -> GradientStatistics:
        """Return the summary of nothing, the neutral element of ``+``."""
        return cls(weight_exponent, np.zeros(BINS), np.zeros(BINS), 0.0, 0, 0, 0, 0.0, 0.0, np.zeros((0, 3)))

    @classmethod
    def from_normalised(
        cls, normalised: npt.ArrayLike, norms: npt.ArrayLike, *, weight_exponent: int = 2, complete: bool = True
    ) -> GradientStatistics:
        """Summarise float32[buckets, bucket_size] coordinates that were divided by norms float32[buckets].

        Rows of zero norm are counted as zero buckets, rows of non-finite norm as non-finite ones. ``complete`` says
        that the rows are full buckets, whose moments may be kept; a short last bucket only enters the histogram.
        """
        rows = np.atleast_2d(np.asarray(normalised, dtype=np.float32))
        scale = np.asarray(norms, dtype=np.float64).reshape(len(rows))
        used = np.isfinite(scale) & (scale > 0)
        flat = rows[used].ravel()
        weights = np.repeat(scale[used] ** weight_exponent, rows.shape[1])
        index = bin_index(flat)
        wide = np.where(used[:, None], rows, 0).astype(np.float64)
        sums = wide.sum(axis=1)
        deviations = ((wide - sums[:, None] / max(rows.shape[1], 1)) ** 2).sum(axis=1)
        return cls.from_bucket_sums(
            np.stack([scale, sums, deviations, (wide * wide).sum(axis=1)], axis=1),
            np.bincount(index, weights, BINS).astype(np.float64),
            np.bincount(index, weights * flat, BINS).astype(np.float64),
            elements=rows.size,
            bucket_size=rows.shape[1] + (not complete),
            weight_exponent=weight_exponent,
        )

    @classmethod
    def from_bucket_sums(
        cls,
        sums: Float64Array,
        mass: Float64Array,
        first_moment: Float64Array,
        *,
        elements: int,
        bucket_size: int,
        weight_exponent: int,
    ) -> GradientStatistics:
        """Summarise what a codec counted.

        Args:
            sums: float64[buckets, 4]: norm, sum of r, sum of squared deviations from the bucket's mean, sum of r * r.
            mass: float64[BINS], the histogram of the coordinates of finite, non-zero buckets.
            first_moment: float64[BINS], its first moments.
            elements: coordinates in all buckets; a multiple of ``bucket_size`` when the last bucket is complete.
            bucket_size: coordinates of a complete bucket.
            weight_exponent: the power of the norm that weighs a coordinate.
        """
        norm, total, deviations, squares = sums.T
        finite = np.isfinite(norm)
        used = finite & (norm > 0)
        sizes = np.minimum(bucket_size, elements - bucket_size * np.arange(len(norm)))
        whole = used & (sizes == bucket_size) & (sizes > 1)
        spread = np.sqrt(deviations[whole] / np.maximum(sizes[whole] - 1, 1))
        return cls(
            weight_exponent=weight_exponent,
            mass=mass,
            first_moment=first_moment,
            second_moment=float(np.dot(norm[used] ** weight_exponent, squares[used])),
            coordinates=int(sizes[used].sum()),
            zero_buckets=int(np.count_nonzero(norm == 0)),
            non_finite_buckets=int(np.count_nonzero(~finite)),
            pooled_sum=float(total[used].sum()),
            pooled_squares=float(deviations[used].sum()),
            buckets=_largest(np.stack([norm[whole], total[whole] / sizes[whole], spread], axis=1)),
        )

    def __add__(self, other: GradientStatistics) -> GradientStatistics:
        if self.weight_exponent != other.weight_exponent:
            raise ConfigurationError(
                f"cannot add statistics of weight exponent {self.weight_exponent} and {other.weight_exponent}"
            )
        return GradientStatistics(
            weight_exponent=self.weight_exponent,
            mass=self.mass + other.mass,
            first_moment=self.first_moment + other.first_moment,
            second_moment=self.second_moment + other.second_moment,
            coordinates=self.coordinates + other.coordinates,
            zero_buckets=self.zero_buckets + other.zero_buckets,
            non_finite_buckets=self.non_finite_buckets + other.non_finite_buckets,
            pooled_sum=self.pooled_sum + other.pooled_sum,
            pooled_squares=self.pooled_squares + other.pooled_squares,
            buckets=_largest(np.concatenate([self.buckets, other.buckets])),
        )

    @property
    def total_mass(self) -> float:
        """Return the weight of all coordinates."""
        return float(self.mass.sum())

    @property
    def usable(self) -> bool:
        """Return whether levels can be fitted: some coordinate was counted, and nothing was NaN or infinite."""
        return self.coordinates > 0 and self.non_finite_buckets == 0 and 0 < self.total_mass < float("inf")

    def to_bytes(self) -> bytes:
        """Return the little-endian bytes that travel to the leader (16 to 25 kB)."""
        prefix = _PREFIX.pack(
            _MAGIC,
            self.weight_exponent,
            self.coordinates,
            self.zero_buckets,
            self.non_finite_buckets,
            self.second_moment,
            self.pooled_sum,
            self.pooled_squares,
            len(self.buckets),
        )
        arrays = (self.mass, self.first_moment, self.buckets)
        return prefix + b"".join(array.astype("<f8").tobytes() for array in arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> GradientStatistics:
        """Return the summary that ``to_bytes`` wrote.

        Raises:
            WireFormatError: when the bytes are too short, too long, or something else.
        """
        if len(data) < _PREFIX.size or data[:4] != _MAGIC:
            raise WireFormatError(f"expected gradient statistics that start with {_MAGIC!r}, got {data[:4]!r}")
        _, exponent, coordinates, zero, non_finite, second, total, squares, kept = _PREFIX.unpack_from(data)
        expected = _PREFIX.size + 8 * (2 * BINS + 3 * kept)
        if len(data) != expected:
            raise WireFormatError(f"expected {expected} bytes of gradient statistics, got {len(data)}")
        numbers = np.frombuffer(data, "<f8", offset=_PREFIX.size).astype(np.float64)
        return cls(
            exponent,
            numbers[:BINS],
            numbers[BINS : 2 * BINS],
            second,
            coordinates,
            zero,
            non_finite,
            total,
            squares,
            numbers[2 * BINS :].reshape(kept, 3),
        )


def _largest(buckets: Float64Array) -> Float64Array:
    """Return the rows of largest norm, in an order that does not depend on how they were gathered."""
    order = np.lexsort((buckets[:, 2], buckets[:, 1], -buckets[:, 0]))
    return buckets[order[:MAXIMUM_BUCKETS]]
