"""Whatever the gradient: tables stay valid, objectives never rise, and the optimum is never beaten."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alq_hvd.quantiser import methods, theory
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.policies import Optimal
from alq_hvd.quantiser.policies.distributions import PiecewiseUniform
from alq_hvd.quantiser.policies.objective import gradient, psi
from alq_hvd.quantiser.statistics import GradientStatistics
from tests.support.real_gradient import relative_variance, statistics_of

ADAPTIVE = [name for name in methods.NAMES if methods.method(name, bits=2).policy.adapts]

floats = st.floats(-1e4, 1e4, width=32)
dense = hnp.arrays(np.float32, st.integers(1, 300), elements=floats)
sparse = hnp.arrays(np.float32, st.integers(1, 300), elements=st.one_of(st.just(0.0), st.just(0.0), floats))
few_values = hnp.arrays(
    np.float32, st.integers(1, 300), elements=st.sampled_from([0.0, 1.0, -1.0, 2.0**-10, 2.0**-100, 2.0**15])
)


@st.composite
def heavy_tailed(draw: st.DrawFn) -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size, freedom = draw(st.integers(1, 3000)), draw(st.sampled_from([0.7, 1.0, 2.0, 5.0]))
    return (rng.standard_t(freedom, size) * 10.0 ** draw(st.integers(-20, 6))).astype(np.float32)


gradients = st.one_of(dense, sparse, few_values, heavy_tailed())
tables = st.lists(st.floats(-1, 1, width=32), min_size=0, max_size=12).map(
    lambda inner: np.unique(np.round(np.concatenate([[-1.0, 1.0], inner]), 5))
)


@settings(max_examples=60, deadline=None)
@given(gradients, st.sampled_from(ADAPTIVE), st.integers(1, 5), st.sampled_from([1, 7, 64, 1000]), st.data())
def test_an_update_is_a_valid_table_that_does_not_raise_the_objective(
    values: np.ndarray, name: str, bits: int, bucket_size: int, data: st.DataObject
) -> None:
    zero = bits > 1 and data.draw(st.booleans())
    method = methods.method(name, bits=bits, zero_level=zero)
    statistics = statistics_of(values, bucket_size, method.norm, method.policy.weight_exponent)
    current = method.initial(bits)
    for _ in range(2):
        update = method.policy.update(statistics, current)
        assert isinstance(update.levels, Levels) and update.levels.minimum_bits <= bits
        if update.reason:
            assert update.levels is current
        else:
            assert update.objective_after < update.objective_before
            assert update.levels.version == current.version + 1
            assert update.levels.values[0] == -1 and update.levels.values[-1] == 1
            assert not zero or 0.0 in update.levels.values.tolist()
        again = method.policy.update(statistics, current)
        assert np.array_equal(again.levels.values, update.levels.values)
        current = update.levels


@settings(max_examples=40, deadline=None)
@given(heavy_tailed(), tables, st.sampled_from(["l2", "linf"]), st.sampled_from([16, 1000]))
def test_no_table_of_as_many_levels_beats_the_optimal_one(
    values: np.ndarray, table: np.ndarray, norm: str, bucket_size: int
) -> None:
    statistics = statistics_of(values, bucket_size, norm)
    if not statistics.usable:
        return
    distribution = PiecewiseUniform.from_statistics(statistics)
    best = Optimal().fit(distribution, len(table))
    assert np.all(np.diff(best) > 1e-7)
    assert float(psi(distribution, best)) <= 1.005 * float(psi(distribution, table)) + 1e-9


@settings(max_examples=40, deadline=None)
@given(gradients, tables, st.sampled_from(["l2", "linf"]), st.sampled_from([1, 16, 1000]))
def test_the_objective_of_the_histogram_is_the_variance_of_the_coordinates(
    values: np.ndarray, table: np.ndarray, norm: str, bucket_size: int
) -> None:
    statistics = statistics_of(values, bucket_size, norm)
    if not statistics.usable:
        return
    claimed = float(psi(PiecewiseUniform.from_statistics(statistics), table)) * statistics.total_mass
    expected = relative_variance(values, bucket_size, norm, table) * float((values.astype(np.float64) ** 2).sum())
    assert claimed == pytest.approx(expected, rel=2e-3, abs=1e-3 * statistics.second_moment)


@settings(max_examples=40, deadline=None)
@given(gradients, tables, st.sampled_from(["l2", "linf"]))
def test_no_gradient_exceeds_the_bound_of_its_table(values: np.ndarray, table: np.ndarray, norm: str) -> None:
    if not np.any(table > 0) or not np.any(np.abs(values) > 1e-20):
        return
    bound = theory.levels_bound(table, len(values))
    assert relative_variance(values, len(values), norm, table) <= bound * (1 + 1e-5) + 1e-5


@settings(max_examples=40, deadline=None)
@example([(1.0, 0.0), (1.0, 2.2250738585e-313)], np.array([-1.0, 1.0]))
@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 1)), min_size=1, max_size=12), tables)
def test_any_bins_keep_mass_mean_and_a_convex_objective(bins: list[tuple[float, float]], table: np.ndarray) -> None:
    edges = np.linspace(-1, 1, len(bins) + 1)
    mass = np.array([weight for weight, _ in bins])
    mean = edges[:-1] + np.diff(edges) * np.array([share for _, share in bins])
    distribution = PiecewiseUniform.from_bins(edges, mass, mass * mean)
    whole = distribution.cumulative(1.0)
    assert float(whole.mass) == pytest.approx(1) and float(whole.first) == pytest.approx(
        float(mass @ mean / mass.sum()), abs=1e-12
    )
    grid = np.linspace(-1, 1, 201)
    below = distribution.cumulative(grid)
    assert np.all(np.diff(below.mass) >= -1e-15) and np.all(np.diff(below.second) >= -1e-15)
    slopes = [float(gradient(distribution, [-1, x, 1])[0]) for x in np.linspace(-0.999, 0.999, 41)]
    assert np.all(np.diff(slopes) >= -1e-12)
    assert psi(distribution, table) >= -1e-12


@settings(max_examples=25, deadline=None)
@given(heavy_tailed(), st.integers(2, 6))
def test_statistics_of_any_split_add_up(values: np.ndarray, parts: int) -> None:
    whole = statistics_of(values, 16, "linf")
    total = GradientStatistics.empty(2)
    step = -(-len(values) // (16 * parts)) * 16
    for start in range(0, len(values), step):
        total += statistics_of(values[start : start + step], 16, "linf")
    np.testing.assert_allclose(total.mass, whole.mass, rtol=1e-9)
    np.testing.assert_allclose(total.buckets, whole.buckets, rtol=1e-9)
    assert total.coordinates == whole.coordinates
