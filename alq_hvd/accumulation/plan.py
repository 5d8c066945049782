"""Which float type a sum of n gradients may be kept in: variance kept, equal terms survived, noise below the wire's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from alq_hvd.accumulation.retention import ACCEPTED_LOG_VARIANCE_LOST, TERM_MANTISSA, log_variance_lost, vrr
from alq_hvd.accumulation.rounding import rounding_nmse
from alq_hvd.accumulation.types import AUTO, TYPES, require_type
from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.config import require_int

TOLERATED = 0.01
"""Rounding may add so much of the quantiser's own variance."""


@dataclass(frozen=True, slots=True)
class AccumulatorPlan:
    """Name the cheapest float type in which a sum may be kept, and why not a cheaper one.

    Attributes:
        dtype: ``"bf16"``, ``"fp16"`` or ``"fp32"``.
        chunk: terms of an inner sum; ``None`` where all are added one after another.
        vrr: share of the variance that the sum keeps.
        log_variance_lost: n (1 - VRR); below ln 50 is accepted.
        nmse: rounding noise relative to the sum.
        reason: one sentence.
        problem: what speaks against a type that was asked for by name; ``None`` where nothing does.
    """

    dtype: str
    chunk: int | None
    vrr: float
    log_variance_lost: float
    nmse: float
    reason: str
    problem: str | None = None


def plan_accumulator(
    count: int,
    *,
    accumulator: str = AUTO,
    allowed: Sequence[str] = ("bf16", "fp16", "fp32"),
    local_size: int | None = None,
    coherent: bool = True,
    relative_variance: float | None = None,
) -> AccumulatorPlan:
    """Return the cheapest type that keeps the variance, copes with equal terms, and rounds below the quantiser's noise.

    Computed from facts that all ranks share, so all ranks get the same. It knows nothing of the range: fp16 overflows
    beyond 65504 and loses what is below 6e-8.

    Args:
        count: terms: ranks, or micro-batches.
        accumulator: a type by name is taken in any case; ``problem`` then says what speaks against it.
        allowed: types to choose from, cheapest first; float32 is taken when none suffices.
        local_size: terms of an inner sum, such as the ranks of a node.
        coherent: guard against terms that are all alike, as those of replicas may be: n <= 2^(m - 1) a sum.
        relative_variance: of the quantiser; rounding may add 1 % of it.

    Raises:
        ConfigurationError: a type that is none, fewer than one term a sum, or a variance that is no number.
    """
    require_int("count", count, 0, 2**27)
    if local_size is not None:
        require_int("local_size", local_size, 1, 2**27)
    if relative_variance is not None and not relative_variance >= 0:
        raise ConfigurationError(f"relative_variance: expected a number from 0, got {relative_variance!r}")
    require_type("accumulator", accumulator)
    for dtype in allowed:
        require_type("allowed", dtype, tuple(TYPES))
    if accumulator != AUTO:
        problem = _against(accumulator, count, local_size, coherent, relative_variance)
        return _plan(accumulator, count, local_size, "asked for", problem)
    reason = "the cheapest allowed"
    for dtype in allowed:
        problem = _against(dtype, count, local_size, coherent, relative_variance)
        if problem is None:
            return _plan(dtype, count, local_size, reason)
        reason = problem
    return _plan("fp32", count, local_size, reason)


def plan_inside_node(ranks: int, bits: float, bucket_size: int, accumulator: str = AUTO) -> AccumulatorPlan:
    """Return the type in which a node adds up the gradients of its ``ranks`` before it quantises the sum.

    No quantiser of so many bits a coordinate, its share of the bucket's norm included, has a relative variance below
    4^-bits on normal coordinates (rate-distortion bound), so that is what rounding is held against. fp16 by name only:
    whether gradients fit its range is not known beforehand.

    Args:
        ranks: of a node.
        bits: of a code.
        bucket_size: coordinates that share a norm.
        accumulator: ``"auto"``, or the type to take.
    """
    bound = 4.0 ** -(bits + 32 / bucket_size)
    return plan_accumulator(ranks, accumulator=accumulator, allowed=("bf16", "fp32"), relative_variance=bound)


def _longest(count: int, local_size: int | None) -> int:
    """Return the terms of the longest sum."""
    return count if local_size is None else max(min(local_size, count), math.ceil(count / local_size))


def _against(
    dtype: str, count: int, local_size: int | None, coherent: bool, relative_variance: float | None
) -> str | None:
    """Return why ``dtype`` does not suffice, ``None`` where it does."""
    mantissa, longest = TYPES[dtype].mantissa, _longest(count, local_size)
    if log_variance_lost(mantissa, TERM_MANTISSA, count, chunk=local_size) >= ACCEPTED_LOG_VARIANCE_LOST:
        return f"{dtype} would lose variance over {count} terms"
    if coherent and longest > 2 ** (mantissa - 1):
        return f"{dtype} would stop growing over {longest} equal terms"
    nmse = rounding_nmse(mantissa, longest)
    if relative_variance is not None and nmse > TOLERATED * relative_variance:
        return f"{dtype} would add rounding noise {nmse:.1e}, over 1 % of the quantiser's {relative_variance:.1e}"
    return None


def _plan(dtype: str, count: int, local_size: int | None, reason: str, problem: str | None = None) -> AccumulatorPlan:
    mantissa = TYPES[dtype].mantissa
    return AccumulatorPlan(
        dtype,
        local_size,
        vrr(mantissa, TERM_MANTISSA, count, chunk=local_size),
        log_variance_lost(mantissa, TERM_MANTISSA, count, chunk=local_size),
        rounding_nmse(mantissa, _longest(count, local_size)),
        reason,
        problem,
    )
