"""How much of its variance a long sum keeps in a narrow float accumulator: the variance retention ratio.

Mantissa bits are fractional ones, the hidden one not counted: bf16 7, fp16 10, fp32 23. Terms are independent, centred,
of equal variance, and added one after another by an adder that rounds to nearest; with truncation, or terms that are
alike, none of this holds (docs/guides/accumulators.md). The range of the exponent is another question.

References:
    Sakr et al., "Accumulation Bit-Width Scaling For Ultra-Low Precision Training Of Deep Networks", ICLR 2019. The
    typeset formula for partial swamping was not at hand: it is reconstructed, see ``STAGE_MULTIPLICITY``.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import special

from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.config import require_int

ACCEPTED_LOG_VARIANCE_LOST = math.log(50)
"""An accumulator suffices while n (1 - VRR) is below this."""
TERM_MANTISSA = 5
"""Fractional bits of a product of two floats of 2, the published setting; more, up to the accumulator's own, changes
little."""
STAGE_MULTIPLICITY = 0
"""Power of 2^(m_acc - m_p + r) that multiplies the weight of stage r of partial swamping. 1 is the other reading of the
formula, whose weights are no probabilities; up to n = 10^5 it moves the answer by a bit at most."""
MAXIMUM_COUNT = 2**27
MAXIMUM_MANTISSA = 60
_BLOCK = 2**20


def vrr(
    accumulator: int,
    term: int,
    count: int,
    *,
    chunk: int | None = None,
    nzr: float = 1.0,
    partial: bool = True,
) -> float:
    """Return the share of the variance of an ideal sum that is left: the variance retention ratio, 0 to 1.

    Args:
        accumulator: mantissa bits of the running sum.
        term: mantissa bits of each term; those beyond the accumulator's are of no use and do not count.
        count: how many terms are added one after another. The sum of none or of one is exact: 1.
        chunk: terms of an inner sum, whose results are added in an outer one: the product of both levels' ratios.
        nzr: share of the terms that are not zero: zeros swamp nothing.
        partial: count the low bits that terms lose on the way to a full loss, too; ``False`` for full swamping alone.

    Raises:
        ConfigurationError: bits below 1, a negative count or more than 2^27, ``nzr`` outside 0 to 1.
    """
    ratio = 1.0
    for bits, length in _levels(accumulator, term, count, chunk, nzr):
        ratio *= _ratio(accumulator, bits, length, partial)
    return ratio


def log_variance_lost(
    accumulator: int,
    term: int,
    count: int,
    *,
    chunk: int | None = None,
    nzr: float = 1.0,
    partial: bool = True,
) -> float:
    """Return n (1 - VRR), below ln 50 where the accumulator suffices; with ``chunk`` the worse of both levels.

    Each level is judged with its own length: that gives the published widths of chunked sums to within a bit, where
    the ratio of both levels times all n terms would ask for 2 to 4 bits more. For the arguments see ``vrr``.
    """
    levels = _levels(accumulator, term, count, chunk, nzr)
    return max(length * (1 - _ratio(accumulator, bits, length, partial)) for bits, length in levels)


def min_mantissa(term: int, count: int, *, chunk: int | None = None, nzr: float = 1.0, partial: bool = True) -> int:
    """Return the fewest mantissa bits of an accumulator that suffices; for the arguments see ``vrr``."""
    for bits in range(1, MAXIMUM_MANTISSA):
        lost = log_variance_lost(bits, term, count, chunk=chunk, nzr=nzr, partial=partial)
        if lost < ACCEPTED_LOG_VARIANCE_LOST:
            return bits
    return MAXIMUM_MANTISSA


def _levels(accumulator: int, term: int, count: int, chunk: int | None, nzr: float) -> list[tuple[int, int]]:
    """Return the mantissa of the terms and their number for each sum: one, or an inner and an outer one."""
    require_int("accumulator", accumulator, 1, MAXIMUM_MANTISSA)
    require_int("term", term, 0, MAXIMUM_MANTISSA)
    require_int("count", count, 0, MAXIMUM_COUNT)
    if not 0 <= nzr <= 1:
        raise ConfigurationError(f"nzr: expected the share of terms that are not zero, 0 to 1, got {nzr!r}")
    if chunk is not None:
        require_int("chunk", chunk, 1, MAXIMUM_COUNT)
    if chunk is None or chunk == 1 or chunk >= count:
        return [(term, round(nzr * count))]
    grown = min(accumulator, round(term + math.log2(chunk)))
    return [(term, round(nzr * chunk)), (grown, math.ceil(count / chunk))]


@lru_cache(maxsize=1024)
def _ratio(accumulator: int, term: int, count: int, partial: bool) -> float:
    """Return the ratio of one sum of ``count`` terms that are not zero."""
    if count <= 1:
        return 1.0
    if not partial:
        weight, total = _fully_swamped(accumulator, 0.0, count)
        kept = _spared(2.0**accumulator, count)
    else:
        term = min(term, accumulator)
        weight, total = _fully_swamped(accumulator, _lost_bits(accumulator, term, term), count)
        partly_weight, partly = _partly_swamped(accumulator, term, count)
        weight, total = weight + partly_weight, total + partly
        kept = _spared(2.0 ** (accumulator - term + 1), count)
    weight, total = weight + kept, total + count * kept
    return min(1.0, total / (weight * count)) if weight > 0 else 0.0


def _exceeds(bound: float, count: float) -> float:
    """Return P(|N(0, count)| > bound)."""
    return float(special.erfc(bound / math.sqrt(2 * count)))


def _spared(bound: float, count: float) -> float:
    """Return P(|N(0, count)| < bound)."""
    return float(special.erf(bound / math.sqrt(2 * count)))


def _lost_bits(accumulator: int, term: int, bits: int) -> float:
    """Return the variance, in units of a term's, that rounding off up to ``bits`` low bits of each term takes away."""
    stages = sum(2.0**j * (2.0**j - 1) * (2.0 ** (j + 1) - 1) for j in range(1, bits + 1))
    return 2.0 ** (accumulator - 3 * term) / 3 * stages


def _fully_swamped(accumulator: int, lost: float, count: int) -> tuple[float, float]:
    """Return the probability that terms stop to count after i of them, summed over i, and the variance left then."""
    weight = total = 0.0
    bound = 2.0**accumulator
    for first in range(2, count, _BLOCK):
        steps = np.arange(first, min(count, first + _BLOCK), dtype=np.float64)
        steps = steps[steps > lost]
        frozen = special.erfc(bound / np.sqrt(2 * steps)) * special.erf(bound / np.sqrt(2 * (steps - 1)))
        weight, total = weight + float(frozen.sum()), total + float(((steps - lost) * frozen).sum())
    return weight, total


def _partly_swamped(accumulator: int, term: int, count: int) -> tuple[float, float]:
    """Return the probability that terms lose some of their bits, and the variance left then."""
    weight = total = 0.0
    for stage in range(2, term + 1):
        lost = _lost_bits(accumulator, term, stage - 1)
        if count > lost:
            low, high = 2.0 ** (accumulator - term + stage - 1), 2.0 ** (accumulator - term + stage)
            share = _exceeds(low, count) * _spared(high, count) * high**STAGE_MULTIPLICITY
            weight, total = weight + share, total + (count - lost) * share
    return weight, total
