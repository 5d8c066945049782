"""Fixed tables: the published values, symmetry, and what float32 cannot hold."""

import numpy as np
import pytest

from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.policies import Fixed, fixed
from alq_hvd.quantiser.statistics import GradientStatistics
from tests.support.cases import each


@each("bits", range(1, 9))
def test_uniform_levels_are_equally_spaced_from_end_to_end(bits: int) -> None:
    values = fixed.uniform(bits).values
    assert len(values) == 2**bits
    np.testing.assert_allclose(np.diff(values.astype(np.float64)), 2 / (2**bits - 1), rtol=1e-4)


@each("bits", range(2, 9))
@each("make", [fixed.uniform, fixed.exponential, fixed.spread_exponential])
def test_a_zero_level_costs_one_level_and_keeps_the_symmetry(bits: int, make) -> None:  # type: ignore[no-untyped-def]
    levels = make(bits, zero_level=True)
    assert len(levels) % 2 == 1 and levels.values[len(levels) // 2] == 0.0
    assert np.array_equal(levels.values, -levels.values[::-1])
    assert levels.minimum_bits <= bits


def test_exponential_levels_are_powers_of_the_multiplier() -> None:
    np.testing.assert_allclose(fixed.exponential(3, 0.3).values[4:], [0.027, 0.09, 0.3, 1.0], rtol=1e-6)


@pytest.mark.parametrize("bits", [6, 7, 8])
def test_powers_that_float32_tables_can_not_hold_apart_are_left_out(bits: int) -> None:
    """Pitfalls 9 and 10: p^s underflows for 6 bits and more."""
    values = fixed.exponential(bits).values
    assert len(values) == 48 and values[24] == 2.0**-23


@each("bits", range(1, 9))
def test_adaptive_methods_start_with_every_code_in_use(bits: int) -> None:
    levels = fixed.spread_exponential(bits)
    assert len(levels) == 2**bits
    assert np.abs(levels.values).min() >= np.float32(2.0**-15) or bits <= 1


def test_ternary_levels() -> None:
    assert fixed.ternary().values.tolist() == [-1.0, 0.0, 1.0]
    assert fixed.ternary().minimum_bits == 2


@each(
    ("make", "message"),
    [
        (lambda: fixed.uniform(0), "bits: expected an integer from 1 to 8, got 0"),
        (lambda: fixed.uniform(9), "bits: expected an integer from 1 to 8, got 9"),
        (lambda: fixed.uniform(1, zero_level=True), "expected 2 to 8 for a table with a zero level"),
        (lambda: fixed.exponential(3, 1.0), "multiplier: expected a number between 0 and 1, got 1.0"),
        (lambda: fixed.exponential(3, float("nan")), "multiplier: expected a number between 0 and 1, got nan"),
    ],
)
def test_undefined_tables_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_the_fixed_policy_gathers_nothing_and_changes_nothing() -> None:
    levels = fixed.uniform(3)
    assert not Fixed().adapts
    update = Fixed().update(GradientStatistics.empty(0), levels)
    assert update.levels is levels and "does not adapt" in update.reason
