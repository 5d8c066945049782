"""The optimal levels: judged by brute force on the raw coordinates of a real gradient."""

import numpy as np
import pytest

from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser import methods
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.policies import Alq, AlqGradient, Amq, Optimal, Policy, fixed
from alq_hvd.quantiser.policies.distributions import PiecewiseUniform
from alq_hvd.quantiser.policies.dynamic_programming import clamp_costs, shortest_path
from alq_hvd.quantiser.policies.objective import psi
from alq_hvd.quantiser.statistics import GradientStatistics
from benchmarks.alq_published import AlqPublished
from tests.support.cases import each
from tests.support.oracle import best_of_raw_samples
from tests.support.real_gradient import real_gradient, relative_variance, statistics_of


def fitted(bucket_size: int, norm: str, bits: int, **options: bool) -> np.ndarray:
    policy = Optimal(**options)
    start = fixed.spread_exponential(bits, zero_level=policy.zero_level)
    return policy.update(statistics_of(real_gradient(), bucket_size, norm), start).levels.values


@each("bucket_size", [64, 1024, 8192, 16384])
@each("bits", [2, 3, 4])
@each("norm", ["l2", "linf"])
def test_within_half_a_percent_of_the_global_optimum_of_the_raw_samples(bucket_size: int, bits: int, norm: str) -> None:
    found = relative_variance(real_gradient(), bucket_size, norm, fitted(bucket_size, norm, bits))
    assert found <= 1.005 * best_of_raw_samples(real_gradient(), bucket_size, norm, 2**bits)


@each("bits", [2, 3, 4])
@each("norm", ["l2", "linf"])
def test_the_same_with_a_zero_level(bits: int, norm: str) -> None:
    levels = fitted(8192, norm, bits, zero_level=True)
    assert 0.0 in levels.tolist() and len(levels) == 2**bits
    found = relative_variance(real_gradient(), 8192, norm, levels)
    assert found <= 1.005 * best_of_raw_samples(real_gradient(), 8192, norm, 2**bits, zero=True)


def test_at_most_a_third_of_the_variance_of_alq_at_three_bits_and_8192() -> None:
    """Section 11 of the specification, in kind: maximum norm and free interior levels against the published model."""
    alq = Alq().update(statistics_of(real_gradient(), 8192, "l2"), fixed.spread_exponential(3)).levels.values
    found = relative_variance(real_gradient(), 8192, "linf", fitted(8192, "linf", 3))
    assert found <= relative_variance(real_gradient(), 8192, "l2", alq) / 3


def test_more_bits_and_smaller_buckets_never_hurt() -> None:
    table = [
        [relative_variance(real_gradient(), size, "linf", fitted(size, "linf", bits)) for bits in range(2, 9)]
        for size in (64, 1024, 16384)
    ]
    assert np.all(np.diff(table, axis=1) < 0) and np.all(np.diff(table, axis=0) > 0)


def test_256_levels_are_close_to_a_stationary_point_and_follow_the_inverse_square_law() -> None:
    six, eight = (relative_variance(real_gradient(), 16384, "linf", fitted(16384, "linf", bits)) for bits in (6, 8))
    assert six / eight == pytest.approx(16, rel=0.15)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_free_ends_lower_the_objective_and_the_objective_counts_the_bias(norm: str) -> None:
    statistics = statistics_of(real_gradient(), 8192, norm)
    free = Optimal(free_ends=True).update(statistics, fixed.spread_exponential(3))
    held = Optimal().update(statistics, fixed.spread_exponential(3))
    assert free.levels.values[0] > -1 and free.levels.values[-1] < 1
    assert free.objective_after < held.objective_after
    claimed = free.objective_after * statistics.total_mass / statistics.second_moment
    assert relative_variance(real_gradient(), 8192, norm, free.levels.values) == pytest.approx(claimed, rel=2e-3)


def test_one_bit_holds_the_two_ends_or_clamps_to_two_free_ones() -> None:
    statistics = statistics_of(real_gradient(), 64, "linf")
    start = fixed.spread_exponential(1)
    assert Optimal().update(statistics, start).levels is start
    free = Optimal(free_ends=True).update(statistics, start)
    assert np.abs(free.levels.values).max() < 0.7 and free.objective_after < free.objective_before


def test_the_objective_of_statistics_is_the_variance_of_the_raw_samples() -> None:
    for bucket_size, norm in ((64, "l2"), (8192, "linf"), (16384, "l2")):
        statistics = statistics_of(real_gradient(), bucket_size, norm)
        distribution = PiecewiseUniform.from_statistics(statistics)
        for bits in (2, 3, 4):
            levels = fixed.exponential(bits).values
            claimed = float(psi(distribution, levels)) * statistics.total_mass / statistics.second_moment
            assert claimed == pytest.approx(relative_variance(real_gradient(), bucket_size, norm, levels), rel=1e-3)


def test_all_codes_are_used_even_where_the_first_table_had_an_odd_length() -> None:
    assert len(fixed.spread_exponential(3, zero_level=True)) == 7
    assert len(fitted(1024, "linf", 3, zero_level=True)) == 8


def test_coordinates_that_are_exactly_the_levels_cost_nothing() -> None:
    rows = np.tile(np.array([-1, -0.5, 0, 0.25], dtype=np.float32), (16, 1))
    statistics = GradientStatistics.from_normalised(rows, np.ones(16))
    update = Optimal().update(statistics, fixed.spread_exponential(3))
    assert update.objective_after < 1e-6
    for value in (-0.5, 0.0, 0.25):
        assert np.abs(update.levels.values - value).min() < 0.02


def test_bucket_size_one_is_lossless_under_any_table_so_the_current_one_stays() -> None:
    """Pitfall 6: every coordinate of a bucket of one is -1 or 1."""
    rows = np.sign(real_gradient()[:500, None] + np.float32(1e-30))
    statistics = GradientStatistics.from_normalised(rows, np.abs(real_gradient()[:500]) + 1)
    current = fixed.spread_exponential(3)
    update = Optimal().update(statistics, current)
    assert update.levels is current and update.objective_before == pytest.approx(0, abs=1e-12)


def test_exact_zeros_travel_without_noise_once_there_is_a_zero_level() -> None:
    """Pitfall 13: from an even table without a zero they come back as noise of the size of the smallest level."""
    gradient = np.where(np.arange(len(real_gradient())) % 2, real_gradient(), np.float32(0))
    statistics = statistics_of(gradient, 1024, "l2")
    with_zero = Optimal(zero_level=True).update(statistics, fixed.spread_exponential(2, zero_level=True)).levels.values
    without = Alq().update(statistics, fixed.spread_exponential(2)).levels.values
    zeros = np.zeros_like(gradient)
    zeros[::1024] = 1.0  # gives every bucket a norm; the other coordinates are exact zeros
    assert relative_variance(zeros, 1024, "l2", with_zero) == 0
    smallest = -float(without[1]) * float(without[2])
    assert relative_variance(zeros, 1024, "l2", without) == pytest.approx(smallest * 1023, rel=0.02)


def test_zero_buckets_do_not_count() -> None:
    """Pitfall 1."""
    rows, norms = np.zeros((4, 64), dtype=np.float32), np.zeros(4)
    padded = statistics_of(real_gradient(), 64, "linf") + GradientStatistics.from_normalised(rows, norms)
    assert padded.zero_buckets >= 4
    levels = Optimal().update(padded, fixed.spread_exponential(3)).levels
    assert np.array_equal(levels.values, fitted(64, "linf", 3))


@each("policy", [Optimal(), Alq(), AlqGradient(), AlqPublished(2), Amq()])
def test_statistics_of_another_weighting_are_refused(policy: Policy) -> None:
    with pytest.raises(ConfigurationError, match="expected statistics of weight exponent 2, got 0"):
        policy.update(statistics_of(real_gradient(), 64, "linf", 0), fixed.spread_exponential(3))


def test_unusable_statistics_keep_the_levels() -> None:
    """Pitfall 2."""
    rows = np.full((2, 8), np.nan, dtype=np.float32)
    statistics = GradientStatistics.from_normalised(rows, np.full(2, np.nan))
    current = fixed.spread_exponential(3)
    update = Optimal().update(statistics, current)
    assert update.levels is current and "2 buckets of the gradient hold NaN or infinity" in update.reason


@each("name", [name for name in methods.NAMES if methods.method(name, bits=2).policy.adapts])
def test_no_method_beats_optimal_under_the_same_norm(name: str) -> None:
    found = methods.method(name, bits=3, norm="linf")
    levels = found.policy.update(
        statistics_of(real_gradient(), 1024, "linf", found.policy.weight_exponent), found.initial(3)
    ).levels
    best = relative_variance(real_gradient(), 1024, "linf", fitted(1024, "linf", 3))
    assert best <= 1.0005 * relative_variance(real_gradient(), 1024, "linf", levels.values)


def test_the_shortest_path_is_the_shortest_of_all() -> None:
    rng = np.random.default_rng(0)
    for steps in (1, 2, 4, 7):
        costs = np.where(np.tri(8, k=-1, dtype=bool), rng.random((8, 8)), np.inf)
        start, end = rng.random(8), rng.random(8)
        path = shortest_path(costs, start, end, steps)
        found = start[path[0]] + costs[path[1:], path[:-1]].sum() + end[path[-1]]
        layers = start
        for _ in range(steps):
            layers = (costs + layers).min(axis=1)
        assert np.all(np.diff(path) > 0) and found == pytest.approx((layers + end).min())


def test_clamp_costs_are_the_squared_distances() -> None:
    samples = np.array([-0.9, -0.2, 0.1, 0.7])
    edges = np.unique(np.concatenate([samples, [-1, 1]]))
    mass = np.histogram(samples, edges)[0].astype(float)
    under, over = clamp_costs(PiecewiseUniform.from_bins(edges, mass, mass * edges[:-1]), np.array([-0.5, 0.3]))
    np.testing.assert_allclose(under, [0.4**2 / 4, (1.2**2 + 0.5**2 + 0.2**2) / 4], rtol=1e-12)
    np.testing.assert_allclose(over, [(0.3**2 + 0.6**2 + 1.2**2) / 4, 0.4**2 / 4], rtol=1e-12)


def test_a_table_with_free_ends_survives_its_checkpoint() -> None:
    """Pitfall 14: the levels are all the state a policy has."""
    levels = Levels(fitted(8192, "l2", 3, free_ends=True), 3)
    assert Levels.from_state_dict(levels.state_dict()) == levels
