"""Theory against measurement: no vector exceeds a bound, and the bounds said to be attained are."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser import theory
from alq_hvd.quantiser.policies import fixed
from tests.support.cases import each
from tests.support.real_gradient import real_gradient

DIMENSIONS = [1, 2, 16, 64, 1000, 8192]


def variance(vector: np.ndarray, levels: np.ndarray, norm: str) -> float:
    """Return the exact relative variance of one bucket."""
    scale = float(np.abs(vector).max() if norm == "linf" else np.linalg.norm(vector))
    r = np.clip(vector / scale, -1, 1)
    high = np.clip(np.searchsorted(levels, r, side="right"), 1, len(levels) - 1)
    return scale**2 * float(((levels[high] - r) * (r - levels[high - 1])).sum()) / float(vector @ vector)


def vectors(dimension: int, levels: np.ndarray) -> list[np.ndarray]:
    """Return vectors that are bad for some table: dense, sparse, heavy-tailed, flat, and half-way between levels."""
    rng = np.random.default_rng(dimension)
    positive = levels[levels > 0]
    result = [
        rng.normal(size=dimension),
        rng.standard_t(2, size=dimension),
        np.ones(dimension),
        np.arange(dimension) == 0,
        np.where(np.arange(dimension) == 0, math.sqrt(dimension) + 1, 1.0),
        real_gradient()[:dimension] + 1e-12,
    ]
    for magnitude in (
        positive[0] / 2,
        positive[0] * 0.99,
        *(2 * positive[:-1] * positive[1:] / (positive[:-1] + positive[1:])),
    ):
        vector = np.full(dimension, magnitude)
        vector[0] = 1.0
        result += [
            vector,
            vector * rng.choice([-1, 1], dimension),
            np.append(vector[: dimension // 2], np.zeros(dimension - dimension // 2)),
        ]
    return [np.asarray(vector, dtype=np.float64) for vector in result if np.any(vector)]


def signed(magnitudes: np.ndarray) -> np.ndarray:
    return np.concatenate([-magnitudes[::-1], [0.0], magnitudes])


@each("dimension", DIMENSIONS)
@each("norm", ["l2", "linf"])
def test_no_vector_exceeds_the_bound_of_any_table(dimension: int, norm: str) -> None:
    tables = [fixed.uniform(3), fixed.exponential(3), fixed.exponential(4, 0.7), fixed.uniform(2, zero_level=True)]
    tables += [fixed.uniform(4, zero_level=True), fixed.exponential(3, zero_level=True)]
    values = [table.values.astype(np.float64) for table in tables]
    values.append(np.array([-1, -0.3, -0.05, 0.01, 0.2, 0.25, 1]))
    values.append(np.array([-1, -0.3, -0.05, 0, 0.01, 0.2, 0.25, 1]))
    for levels in values:
        bound = theory.levels_bound(levels, dimension)
        for vector in vectors(dimension, levels):
            assert variance(vector, levels, norm) <= bound * (1 + 1e-12) + 1e-12


@each("dimension", DIMENSIONS)
@each("intervals", [1, 3, 7, 127])
def test_qsgd(dimension: int, intervals: int) -> None:
    levels = signed(np.arange(1, intervals + 1) / intervals)
    for vector in vectors(dimension, levels):
        assert variance(vector, levels, "l2") <= theory.qsgd_bound(intervals, dimension) + 1e-12


@each("dimension", DIMENSIONS)
def test_terngrad(dimension: int) -> None:
    levels = np.array([-1.0, 0.0, 1.0])
    for vector in vectors(dimension, levels):
        assert variance(vector, levels, "linf") <= theory.terngrad_bound(dimension) + 1e-12
    worst = np.where(np.arange(dimension) == 0, math.sqrt(dimension) + 1, 1.0)
    assert variance(worst, levels, "linf") == pytest.approx(theory.terngrad_bound(dimension))


@each("dimension", [4, 64, 255, 257, 16384])
@each("exponent", [1, 3, 7])
def test_nuqsgd_has_the_two_regimes_of_its_closed_form(dimension: int, exponent: int) -> None:
    if dimension <= 2 ** (2 * exponent + 2):
        expected = 1 / 8 + 2.0 ** (-2 * exponent - 2) * dimension
    else:
        expected = 2.0**-exponent * math.sqrt(dimension) - 7 / 8
    assert theory.nuqsgd_bound(exponent, dimension) == pytest.approx(expected)
    assert theory.amq_bound(0.5, exponent, dimension) == theory.nuqsgd_bound(exponent, dimension)
    levels = signed(2.0 ** -np.arange(exponent, -1, -1))
    assert theory.levels_bound(levels, dimension) == pytest.approx(expected)


@each("dimension", [2, 30, 8192])
@each("smallest", [0.001, 0.05, 0.5])
def test_the_first_interval_term_is_the_published_infimum(dimension: int, smallest: float) -> None:
    """inf over 0 < p < 1 of K_p l^(2-p) d^((2-p)/2), K_p = ((1-p)/(2-p))^(1-p) / (2-p)."""

    def term(p: float) -> float:
        factor = ((1 - p) / (2 - p)) ** (1 - p) / (2 - p)
        return factor * float(smallest ** (2 - p) * dimension ** ((2 - p) / 2))

    found = minimize_scalar(term, bounds=(1e-9, 1 - 1e-9), method="bounded", options={"xatol": 1e-10}).fun
    expected = (
        theory.levels_bound(signed(np.array([smallest, 1.0])), dimension) - (1 / smallest - 1) ** 2 * smallest / 4
    )
    assert expected == pytest.approx(found, rel=1e-4)


def test_the_published_three_bit_nuqsgd_collapses_for_want_of_a_zero() -> None:
    """Section 8: 127 at d = 8192 without a zero; at most sqrt(d)/4 - 7/8 with one."""
    assert theory.nuqsgd_without_zero(3, 8192) == 127
    vector = np.random.default_rng(0).normal(size=8192)
    without = fixed.exponential(3).values.astype(np.float64)
    assert variance(vector, without, "l2") == pytest.approx(127)
    with_zero = fixed.exponential(3, zero_level=True).values.astype(np.float64)
    assert variance(vector, with_zero, "l2") <= theory.nuqsgd_bound(2, 8192) < 23


def test_a_table_that_does_not_reach_the_ends_has_no_bound() -> None:
    with pytest.raises(ConfigurationError, match=r"expected levels from -1 to 1, got -0\.5 to 1"):
        theory.levels_bound([-0.5, 0, 1], 8)


def test_symbol_probabilities_are_the_frequencies_of_the_codes() -> None:
    rng = np.random.default_rng(1)
    r = np.clip(rng.normal(0, 0.2, 200_000), -1, 1)
    levels = np.array([-1, -0.2, 0.05, 0.3, 1])
    low = np.clip(np.searchsorted(levels, r, side="right") - 1, 0, 3)
    mass, first = np.bincount(low, minlength=4) / len(r), np.bincount(low, r, 4) / len(r)
    expected = theory.symbol_probabilities(levels, mass, first)
    codes = low + (rng.random(len(r)) < (r - levels[low]) / np.diff(levels)[low])
    assert expected.sum() == pytest.approx(1)
    np.testing.assert_allclose(expected, np.bincount(codes, minlength=5) / len(r), atol=4e-3)


def test_entropy() -> None:
    assert theory.entropy_bits([0.5, 0.25, 0.25, 0]) == 1.5
    assert theory.entropy_bits([1.0]) == 0.0
    assert theory.entropy_bits(np.full(8, 1 / 8)) == pytest.approx(3)


@each(("elements", "expected"), [(0, 0), (1, 1 + 4), (8192, 3072 + 4), (8193, 3073 + 8)])
def test_fixed_width_bytes(elements: int, expected: int) -> None:
    assert theory.bytes_fixed(elements, 3, 8192) == expected
    assert theory.bytes_ideal(elements, 3.0, 8192) == expected
    assert theory.bytes_ideal(elements, 1.5, 8192) <= expected


@pytest.mark.parametrize("dimension", [16, 1000, 8192])
def test_nonzeros_and_code_length(dimension: int) -> None:
    levels = fixed.exponential(3, zero_level=True).values.astype(np.float64)
    for vector in vectors(dimension, levels):
        for norm, exponent in (("l2", 2.0), ("linf", math.inf)):
            scale = np.abs(vector).max() if norm == "linf" else np.linalg.norm(vector)
            r = np.abs(vector) / scale
            nonzeros = float(np.minimum(1, r / 0.25).sum())
            bound = theory.nonzeros_bound(0.25, dimension, exponent)
            assert nonzeros <= bound * (1 + 1e-12)
            assert theory.code_length_bound(nonzeros, dimension, 1.0) <= theory.code_length_bound(bound, dimension, 2.0)
    assert theory.code_length_bound(10, 100, 1.5) == 32 + 10 + 250


def test_quantised_descent_on_a_convex_problem_stays_below_its_bound() -> None:
    """|x|^2 / 2 with noisy gradients, quantised by the ternary table, four ranks: mean of 40 runs."""
    dimension, steps, ranks, noise = 8, 400, 4, 0.5
    rng = np.random.default_rng(2)
    start = np.ones(dimension)
    distance = float(np.linalg.norm(start))
    eps = theory.terngrad_bound(dimension)
    second_moment = 2 * distance**2 + dimension * noise**2
    sigma = math.sqrt(theory.gradient_variance(dimension * noise**2, second_moment, eps, ranks))
    rate = 1 / (1 + sigma / distance * math.sqrt(steps / 2))
    losses = []
    for _ in range(40):
        x, total = start.copy(), np.zeros(dimension)
        for _ in range(steps):
            gradients = x + noise * rng.normal(size=(ranks, dimension))
            scale = np.abs(gradients).max(axis=1, keepdims=True)
            ternary = np.sign(gradients) * (rng.random((ranks, dimension)) < np.abs(gradients) / scale)
            x = x - rate * (scale * ternary).mean(axis=0)
            total += x
        losses.append(float((total / steps) @ (total / steps)) / 2)
    assert np.mean(losses) <= theory.convex_bound(distance, sigma, 1.0, steps)


def test_slow_down_is_the_ratio_of_steps_to_the_same_noise_term() -> None:
    exact = math.sqrt(theory.gradient_variance(2.0, 3.0, 0.0, 4))
    quantised = math.sqrt(theory.gradient_variance(2.0, 3.0, 0.7, 4))
    factor = theory.slow_down(0.7, signal_to_noise=0.5)
    assert theory.convex_bound(1, quantised, 0, round(1000 * factor)) == pytest.approx(
        theory.convex_bound(1, exact, 0, 1000), rel=1e-3
    )
    assert theory.slow_down(0.0) == 1


def test_variance_falls_as_one_over_the_ranks() -> None:
    assert theory.gradient_variance(1, 2, 0.5, 32) == theory.gradient_variance(1, 2, 0.5, 1) / 32


def test_time_average_weighs_tables_by_how_long_they_were_in_use() -> None:
    assert theory.time_average([100, 1900], [2.0, 0.2]) == pytest.approx(0.29)
