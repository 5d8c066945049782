"""Which float type a sum of n gradients may be kept in: how much of its variance survives the rounding.

Mantissa bits are fractional ones, the hidden one not counted: bf16 7, fp16 10, fp32 23. Adders must round to nearest;
with truncation none of this holds. The range of the exponent is another question.

References:
    Sakr et al., "Accumulation Bit-Width Scaling For Ultra-Low Precision Training Of Deep Networks", ICLR 2019 (variance
    retention ratio). Its typeset formula for partial swamping was not at hand: ``_lost_bits`` follows a reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

MANTISSA = {"bf16": 7, "fp16": 10, "fp32": 23}
"""Fractional mantissa bits, cheapest type first."""
ACCEPTED_LOG_VARIANCE_LOST = math.log(50)
TERM_MANTISSA = 5
"""Fractional bits of a term in the published tables; more, up to the accumulator's own, changes little."""
_RNE_NOISE = 3 / (8 * math.log(2)) / 24


@lru_cache(maxsize=256)
def vrr(accumulator: int, term: int, count: int) -> float:
    """Return the share of the variance of an ideal sum that is left: the variance retention ratio.

    Args:
        accumulator: mantissa bits of the running sum.
        term: mantissa bits of each term, at most those of the accumulator.
        count: how many independent, centred terms are added one after another.
    """
    if count <= 1:
        return 1.0
    term = min(term, accumulator)
    weight, total = _fully_swamped(accumulator, term, count)
    partly_weight, partly = _partly_swamped(accumulator, term, count)
    kept = _spared(2.0 ** (accumulator - term + 1), count)
    weight, total = weight + partly_weight + kept, total + partly + count * kept
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


def _fully_swamped(accumulator: int, term: int, count: int) -> tuple[float, float]:
    """Return the probability that terms stop to count after i of them, summed over i, and the variance left then."""
    lost = _lost_bits(accumulator, term, term)
    steps = np.arange(2, count, dtype=np.float64)
    steps = steps[steps > lost]
    bound = 2.0**accumulator
    frozen = special.erfc(bound / np.sqrt(2 * steps)) * special.erf(bound / np.sqrt(2 * (steps - 1)))
    return float(frozen.sum()), float(((steps - lost) * frozen).sum())


def _partly_swamped(accumulator: int, term: int, count: int) -> tuple[float, float]:
    """Return the probability that terms lose some of their bits, and the variance left then."""
    weight = total = 0.0
    for stage in range(2, term + 1):
        lost = _lost_bits(accumulator, term, stage - 1)
        if count > lost:
            low, high = 2.0 ** (accumulator - term + stage - 1), 2.0 ** (accumulator - term + stage)
            share = _exceeds(low, count) * _spared(high, count)
            weight, total = weight + share, total + (count - lost) * share
    return weight, total


def log_variance_lost(accumulator: int, count: int, *, term: int = TERM_MANTISSA, chunk: int | None = None) -> float:
    """Return n (1 - VRR), at most ln 50 when the accumulator suffices; with ``chunk``, the worse of both levels.

    Args:
        accumulator: mantissa bits.
        count: terms.
        term: mantissa bits of a term.
        chunk: terms of an inner sum, such as the ranks of a node; the inner results are added in an outer sum.
    """
    if chunk is None or chunk <= 1 or chunk >= count:
        return count * (1 - vrr(accumulator, term, count))
    outer = -(-count // chunk)
    grown = min(accumulator, round(term + math.log2(chunk)))
    inner_lost = chunk * (1 - vrr(accumulator, term, chunk))
    return max(inner_lost, outer * (1 - vrr(accumulator, grown, outer)))


def min_mantissa(count: int, *, term: int = TERM_MANTISSA, chunk: int | None = None) -> int:
    """Return the fewest mantissa bits that keep the variance of a sum of ``count`` independent terms."""
    return next(
        bits
        for bits in range(1, 60)
        if log_variance_lost(bits, count, term=term, chunk=chunk) < ACCEPTED_LOG_VARIANCE_LOST
    )


def rounding_nmse(accumulator: int, count: int) -> float:
    """Return E|error|^2 / E|sum|^2 of adding ``count`` independent terms, each sum rounded to nearest."""
    return float(_RNE_NOISE * count * 4.0**-accumulator)


def integer_sum_bits(count: int, largest: int) -> int:
    """Return the width of a signed integer that holds any sum of ``count`` codes in -largest..largest, exactly."""
    return 1 + math.ceil(math.log2(count * largest + 1))


@dataclass(frozen=True, slots=True)
class AccumulatorPlan:
    """Name the cheapest float type in which a sum may be kept, and why not a cheaper one.

    Attributes:
        dtype: ``"bf16"``, ``"fp16"`` or ``"fp32"``.
        nmse: rounding noise relative to the sum.
        reason: one sentence.
    """

    dtype: str
    nmse: float
    reason: str


def plan_accumulator(
    count: int,
    *,
    allowed: Sequence[str] = ("bf16", "fp16", "fp32"),
    local_size: int | None = None,
    coherent: bool = True,
    relative_variance: float | None = None,
) -> AccumulatorPlan:
    """Return the cheapest type that keeps the variance, copes with equal terms, and rounds below the quantiser's noise.

    Computed from facts that all ranks share, so all ranks get the same.

    Args:
        count: terms, that is ranks.
        allowed: types to choose from, cheapest first; float32 is taken when none suffices.
        local_size: terms of an inner sum.
        coherent: guard against terms that are all alike, as those of replicas may be: n <= 2^(m - 1) a sum.
        relative_variance: of the quantiser; rounding may add 1 % of it.
    """
    reason = "the cheapest allowed"
    for dtype in allowed:
        mantissa = MANTISSA[dtype]
        longest = count if not local_size else max(local_size, -(-count // local_size))
        nmse = rounding_nmse(mantissa, longest)
        if log_variance_lost(mantissa, count, chunk=local_size) >= ACCEPTED_LOG_VARIANCE_LOST:
            reason = f"{dtype} would lose variance over {count} terms"
        elif coherent and longest > 2 ** (mantissa - 1):
            reason = f"{dtype} would stop growing over {longest} equal terms"
        elif relative_variance is not None and nmse > 0.01 * relative_variance:
            reason = f"{dtype} would add rounding noise {nmse:.1e}, over 1 % of the quantiser's {relative_variance:.1e}"
        else:
            return AccumulatorPlan(dtype, nmse, reason)
    return AccumulatorPlan("fp32", rounding_nmse(MANTISSA["fp32"], count), reason)
