"""How narrow an accumulator may be: the published widths, the formulas summed again, plans, and bad input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from alq_hvd.accumulation import (
    integer_sum_bits,
    log_variance_lost,
    min_mantissa,
    plan_accumulator,
    plan_inside_node,
    retention,
    rounding_nmse,
    vrr,
)
from alq_hvd.accumulation.retention import ACCEPTED_LOG_VARIANCE_LOST
from alq_hvd.errors import ConfigurationError

PRODUCT = 5
LENGTHS = (4, 16, 64, 256, 1024, 4096)
PUBLISHED = {576: (7, 5), 1152: (8, 5), 2304: (8, 5), 4608: (9, 6), 256 * 112 * 112: (15, 10)}
"""ResNet-18 on ImageNet, length of the sum -> bits of one sum and of chunks of 64: forward passes of the four stages,
and the gradient of the first layer."""


def test_fewest_mantissa_bits() -> None:
    assert [min_mantissa(PRODUCT, n) for n in LENGTHS] == [1, 3, 5, 6, 7, 9]
    assert [min_mantissa(PRODUCT, n, chunk=8) for n in LENGTHS] == [1, 1, 1, 4, 5, 7]


def suffices(bits: int, length: int, chunk: int | None = None) -> bool:
    return log_variance_lost(bits, PRODUCT, length, chunk=chunk) < ACCEPTED_LOG_VARIANCE_LOST


def test_the_published_widths_to_within_one_bit() -> None:
    for length, widths in PUBLISHED.items():
        for published, chunk in zip(widths, (None, 64), strict=True):
            case = f"length {length}, chunk {chunk}"
            assert suffices(published + 1, length, chunk), case
            assert not suffices(published - 2, length, chunk), case


def test_the_published_gradient_widths_that_sparsity_explains() -> None:
    """CIFAR-10 ResNet-32, half of the terms zero: 11, 10 and 9 bits."""
    assert [min_mantissa(PRODUCT, n, nzr=0.5) for n in (131_072, 32_768, 8192)] == [11, 10, 9]


def test_the_longest_accepted_sum() -> None:
    for accumulator, longest in ((7, 1150), (10, 39_150)):
        assert suffices(accumulator, longest), accumulator
        assert not suffices(accumulator, longest + 150), accumulator


def by_hand(m: int, p: int, n: int, *, partial: bool) -> float:
    """Sum up the formulas term by term, with the tails of the normal distribution written out."""
    p = min(m, p)

    def outside(bound: float, steps: int) -> float:
        return math.erfc(bound / math.sqrt(steps) / math.sqrt(2))

    def inside(bound: float, steps: int) -> float:
        return math.erf(bound / math.sqrt(steps) / math.sqrt(2))

    def alpha(last: int) -> float:
        return 2.0 ** (m - 3 * p) / 3 * sum(2**j * (2**j - 1) * (2 ** (j + 1) - 1) for j in range(1, last + 1))

    kept = inside(2.0 ** (m - p + 1) if partial else 2.0**m, n)
    number, lost = n * kept, alpha(p) if partial else 0.0
    for i in range(2, n):
        if i > lost:
            q = outside(2.0**m, i) * inside(2.0**m, i - 1)
            number, kept = number + (i - lost) * q, kept + q
    for r in range(2, p + 1 if partial else 0):
        if n > alpha(r - 1):
            q = outside(2.0 ** (m - p + r - 1), n) * inside(2.0 ** (m - p + r), n)
            number, kept = number + (n - alpha(r - 1)) * q, kept + q
    return min(1.0, number / (kept * n))


def test_the_retention_ratio_against_a_scalar_loop() -> None:
    for case in ((4, 5, 300), (7, 5, 700), (5, 3, 2000), (10, 5, 900), (5, 0, 5000), (2, 5, 40)):
        for partial in (True, False):
            expected = by_hand(*case, partial=partial)
            assert vrr(*case, partial=partial) == pytest.approx(expected, abs=1e-9), (case, partial)


def test_chunks_and_zeros_change_the_lengths() -> None:
    inner, outer = vrr(5, PRODUCT, 64), vrr(5, 5, 32)
    assert vrr(5, PRODUCT, 2048, chunk=64) == pytest.approx(inner * outer, rel=1e-12)
    assert vrr(5, PRODUCT, 2048, nzr=0.25) == vrr(5, PRODUCT, 512)
    assert vrr(5, PRODUCT, 2048, chunk=64, nzr=0.25) == pytest.approx(vrr(5, PRODUCT, 16) * outer, rel=1e-12)
    for chunk in (None, 1, 2048, 4096):  # chunks of one term, or one chunk, are no chunks
        assert vrr(5, PRODUCT, 2048, chunk=chunk) == vrr(5, PRODUCT, 2048), chunk


def test_nothing_is_lost_of_no_term_or_of_one() -> None:
    for count, nzr in ((0, 1.0), (1, 1.0), (1000, 0.0)):
        assert vrr(1, PRODUCT, count, nzr=nzr) == 1.0
        assert min_mantissa(PRODUCT, count, nzr=nzr) == 1


def test_partial_swamping_only_adds_to_the_loss_of_full_swamping() -> None:
    """Up to where full swamping sets in; far beyond, neither formula is to be trusted."""
    for n in LENGTHS:
        for m in (5, 7, 9):
            if n < 4.0**m / 8:
                assert vrr(m, PRODUCT, n) <= vrr(m, PRODUCT, n, partial=False) + 1e-12, (m, n)


@pytest.fixture
def other_reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the typeset formula mean the other thing it may mean."""
    retention._ratio.cache_clear()
    monkeypatch.setattr(retention, "STAGE_MULTIPLICITY", 1)
    yield
    retention._ratio.cache_clear()


def test_the_uncertain_reading_of_the_formula_is_worth_a_bit_at_most(other_reading: None) -> None:
    theirs = [min_mantissa(PRODUCT, n) for n in (*LENGTHS, 100_000)]
    retention._ratio.cache_clear()
    retention.STAGE_MULTIPLICITY = 0
    ours = [min_mantissa(PRODUCT, n) for n in (*LENGTHS, 100_000)]
    assert {other - own for own, other in zip(ours, theirs, strict=True)} <= {-1, 0, 1}


def test_rounding_noise_is_that_of_adding_in_half_precision() -> None:
    terms = np.random.default_rng(0).standard_normal((400, 1024))
    total = np.zeros(400, dtype=np.float16)
    for column in terms.astype(np.float16).T:
        total += column
    exact = terms.astype(np.float16).astype(np.float64).sum(axis=1)
    measured = float(((total.astype(np.float64) - exact) ** 2).mean() / (exact**2).mean())
    assert measured == pytest.approx(rounding_nmse(10, 1024), rel=0.15)


def test_the_accumulator_planned() -> None:
    for count, local_size, dtype in (
        *((0, None, "bf16"), (1, None, "bf16"), (64, None, "bf16"), (65, None, "fp16"), (512, 8, "bf16")),
        *((512, None, "fp16"), (513, None, "fp32"), (1153, 8, "fp16"), (4096, 64, "bf16"), (39_000, 8, "fp32")),
    ):
        assert plan_accumulator(count, local_size=local_size).dtype == dtype, (count, local_size)


def test_a_plan_says_what_it_rests_on() -> None:
    plan = plan_accumulator(512, local_size=8)
    assert (plan.chunk, plan.reason) == (8, "the cheapest allowed")
    assert plan.vrr > 0.999
    assert plan.log_variance_lost < ACCEPTED_LOG_VARIANCE_LOST
    assert plan.nmse == rounding_nmse(7, 64)
    assert "bf16 would stop growing over 512 equal terms" in plan_accumulator(512).reason
    assert "fp16 would lose variance over 40000 terms" in plan_accumulator(40_000).reason
    assert plan_accumulator(512, coherent=False).dtype == "bf16"


def test_the_accumulator_rounds_well_below_the_quantiser() -> None:
    plan = plan_accumulator(64, relative_variance=1e-3)
    assert plan.dtype == "fp16"
    assert "1 % of the quantiser's" in plan.reason
    assert plan_accumulator(64, allowed=("bf16",), relative_variance=1e-3).dtype == "fp32"


def test_inside_a_node_the_wire_decides() -> None:
    """Few bits hide the noise of bf16; eight do not, nor do buckets of one coordinate, which are exact."""
    chosen = {(bits, size): plan_inside_node(8, bits, size).dtype for bits in (2, 4, 8) for size in (1, 1024)}
    assert {case for case, dtype in chosen.items() if dtype == "bf16"} == {(2, 1024), (4, 1024)}
    assert plan_inside_node(65, 2, 1024).dtype == "fp32"


def test_integers_wide_enough_for_a_sum_of_codes() -> None:
    assert [integer_sum_bits(32, k) for k in (1, 3, 7)] == [7, 8, 9]
    assert (integer_sum_bits(256, 127), integer_sum_bits(4096, 127)) == (16, 20)
    for count in range(20):
        for largest in range(20):
            bits = integer_sum_bits(count, largest)
            assert count * largest < 2 ** (bits - 1), (count, largest)
            assert bits == 1 or count * largest >= 2 ** (bits - 2), (count, largest)


def test_what_makes_no_sense_is_refused_with_its_name() -> None:
    cases: dict[str, Callable[[], object]] = {
        "accumulator: expected an integer from 1 to 60, got 0": lambda: vrr(0, 5, 10),
        "accumulator: expected an integer from 1 to 60, got 7.0": lambda: vrr(7.0, 5, 10),  # type: ignore[arg-type]
        "term: expected an integer from 0 to 60, got -1": lambda: min_mantissa(-1, 10),
        "count: expected an integer from 0 to 134217728, got -3": lambda: vrr(7, 5, -3),
        "count: expected an integer from 0 to 134217728, got nan": lambda: vrr(7, 5, math.nan),  # type: ignore[arg-type]
        "nzr: expected the share of terms that are not zero, 0 to 1, got nan": lambda: vrr(7, 5, 10, nzr=math.nan),
        "nzr: expected the share of terms that are not zero, 0 to 1, got 1.5": lambda: min_mantissa(5, 10, nzr=1.5),
        "chunk: expected an integer from 1 to 134217728, got 0": lambda: log_variance_lost(7, 5, 10, chunk=0),
        "allowed: expected one of bf16, fp16, fp32, got 'fp8'": lambda: plan_accumulator(8, allowed=("fp8",)),
        "local_size: expected an integer from 1 to": lambda: plan_accumulator(8, local_size=0),
        "relative_variance: expected a number from 0, got nan": lambda: plan_accumulator(8, relative_variance=math.nan),
        "largest: expected an integer from 0 to": lambda: integer_sum_bits(8, -1),
        "count: expected an integer from 0 to 4611686018427387904, got True": lambda: rounding_nmse(7, True),
    }
    for message, call in cases.items():
        with pytest.raises(ConfigurationError) as caught:
            call()
        assert message in str(caught.value)
