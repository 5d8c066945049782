"""Statistics of normalised coordinates: they count what they say, add up, travel, and skip what would poison them."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from alq_hvd.errors import ConfigurationError, WireFormatError
from alq_hvd.quantiser.policies.distributions import PiecewiseUniform
from alq_hvd.quantiser.policies.objective import psi
from alq_hvd.quantiser.statistics import (
    BINS,
    BINS_PER_OCTAVE_LOG2,
    BINS_PER_SIDE,
    MAXIMUM_BUCKETS,
    OCTAVES,
    GradientStatistics,
    bin_edges,
    bin_index,
)
from tests.support.real_gradient import normalised, real_gradient, relative_variance, statistics_of


def assert_alike(found: GradientStatistics, expected: GradientStatistics) -> None:
    for field in fields(GradientStatistics):
        np.testing.assert_allclose(getattr(found, field.name), getattr(expected, field.name), rtol=1e-9, atol=1e-12)


def test_bin_edges_run_from_end_to_end_and_mirror() -> None:
    edges = bin_edges()
    assert len(edges) == BINS + 1 and edges[0] == -1 and edges[-1] == 1 and edges[BINS // 2] == 0
    assert np.all(np.diff(edges) > 0) and np.array_equal(edges, -edges[::-1])
    assert edges[BINS_PER_SIDE + 1] == 2.0**-OCTAVES
    assert edges[-1 - (1 << BINS_PER_OCTAVE_LOG2)] == 0.5


def test_bin_index_finds_the_bin_between_whose_edges_a_coordinate_lies() -> None:
    rng = np.random.default_rng(0)
    r = np.concatenate([rng.uniform(-1, 1, 20_000), rng.normal(0, 1e-3, 20_000), rng.normal(0, 1e-6, 2000)])
    r = np.concatenate([r, bin_edges(), [0.0, -0.0, 1.0, -1.0, 1e-30, -1e-30]]).clip(-1, 1).astype(np.float32)
    index, edges = bin_index(r), bin_edges()
    wide = r.astype(np.float64)
    assert np.all(edges[index] <= wide) and np.all(wide <= edges[index + 1])
    positive = wide > 0
    assert np.all((wide < edges[index + 1])[positive & (wide < 1)])
    assert bin_index(np.array([0.0, -0.0], dtype=np.float32)).tolist() == [BINS_PER_SIDE, BINS_PER_SIDE]


@pytest.mark.parametrize("exponent", [0, 1, 2])
def test_every_sum_is_what_its_name_says(exponent: int) -> None:
    rows, norms = normalised(real_gradient(), 512, "l2")[0]
    found = GradientStatistics.from_normalised(rows, norms, weight_exponent=exponent)
    wide, scale = rows.astype(np.float64), norms.astype(np.float64)
    weights = np.repeat(scale[:, None] ** exponent, 512, axis=1)
    mass, _ = np.histogram(np.abs(wide), [0, 0.25, 0.5, 1], weights=weights)
    quarters = np.searchsorted(bin_edges(), [-0.5, -0.25, 0, 0.25, 0.5])
    low, left, zero, right, high = quarters
    assert found.mass[zero:right].sum() + found.mass[left:zero].sum() == pytest.approx(mass[0], rel=1e-6)
    assert found.mass[right:high].sum() + found.mass[low:left].sum() == pytest.approx(mass[1], rel=1e-6, abs=1e-12)
    assert found.total_mass == pytest.approx(weights.sum())
    assert found.first_moment.sum() == pytest.approx((weights * wide).sum())
    assert found.second_moment == pytest.approx((weights * wide**2).sum())
    assert found.coordinates == wide.size
    assert found.pooled_sum == pytest.approx(wide.sum())
    assert found.pooled_squares == pytest.approx((wide.var(axis=1) * 512).sum())


def test_buckets_hold_norm_mean_and_unbiased_deviation_largest_norm_first() -> None:
    rows, norms = normalised(real_gradient(), 128, "l2")[0]
    found = GradientStatistics.from_normalised(rows, norms).buckets
    order = np.argsort(-norms)[:MAXIMUM_BUCKETS]
    assert len(found) == MAXIMUM_BUCKETS < len(norms)
    np.testing.assert_allclose(found[:, 0], norms[order], rtol=1e-6)
    np.testing.assert_allclose(found[:, 2], rows[order].astype(np.float64).std(axis=1, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(found[:, 1], rows[order].astype(np.float64).mean(axis=1), rtol=1e-4, atol=1e-9)


def test_with_euclidean_norms_the_deviation_is_one_over_the_square_root_of_the_size() -> None:
    """Section 4: mean of r^2 is 1/d whatever the gradient looks like, so the model cannot see heavy tails."""
    for size in (64, 1024, 8192):
        buckets = statistics_of(real_gradient(), size, "l2").buckets
        second = buckets[:, 1] ** 2 + buckets[:, 2] ** 2 * (size - 1) / size
        np.testing.assert_allclose(second, 1 / size, rtol=1e-4)


def test_parts_in_any_order_and_grouping_add_up_to_the_whole() -> None:
    rows, norms = normalised(real_gradient(), 64, "linf")[0]
    whole = GradientStatistics.from_normalised(rows, norms)
    a, b, c = (
        GradientStatistics.from_normalised(rows[part], norms[part]) for part in np.array_split(range(len(rows)), 3)
    )
    assert_alike(a + b + c, whole)
    assert_alike(c + (b + a), whole)
    assert_alike(whole + GradientStatistics.empty(2), whole)


def test_other_weightings_do_not_add_up() -> None:
    with pytest.raises(ConfigurationError, match="cannot add statistics of weight exponent 2 and 0"):
        GradientStatistics.empty(2) + GradientStatistics.empty(0)


def test_zero_buckets_are_skipped_and_counted() -> None:
    """Pitfall 1: 0/0 of one dead bucket would poison the pooled moments."""
    rows = np.array([[0.6, -0.8], [0, 0], [np.nan, np.nan]], dtype=np.float32)
    found = GradientStatistics.from_normalised(rows[:2], [5, 0])
    expected = GradientStatistics.from_normalised(rows[:1], [5])
    assert found.zero_buckets == 1 and found.usable
    assert np.array_equal(found.mass, expected.mass) and found.pooled_squares == expected.pooled_squares
    poisoned = GradientStatistics.from_normalised(rows[[0, 2]], [5, 0])
    assert np.isfinite(poisoned.mass).all() and np.isfinite(poisoned.pooled_squares)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_buckets_that_are_not_finite_are_counted_and_make_the_whole_unusable(bad: float) -> None:
    """Pitfall 2."""
    rows = np.array([[0.6, -0.8], [bad, 0.1]], dtype=np.float32)
    found = GradientStatistics.from_normalised(rows, [5, bad])
    assert found.non_finite_buckets == 1 and not found.usable
    assert np.isfinite(found.mass).all() and np.isfinite(found.second_moment)
    assert not (found + GradientStatistics.from_normalised(rows[:1], [5])).usable


def test_nothing_is_unusable() -> None:
    assert not GradientStatistics.empty(2).usable
    assert not GradientStatistics.from_normalised(np.zeros((3, 4)), np.zeros(3)).usable


def test_buckets_of_one_have_no_deviation_and_no_nan() -> None:
    """Pitfall 6: the variance with d - 1 is 0/0."""
    found = GradientStatistics.from_normalised(np.array([[1.0], [-1.0]]), [2, 3])
    assert len(found.buckets) == 0 and found.coordinates == 2 and found.usable
    assert found.mass[0] == 9 and found.mass[-1] == 4


def test_a_short_last_bucket_enters_the_histogram_but_not_the_buckets() -> None:
    """Pitfall 11: lengths d - 1, d, d + 1 and k d."""
    size = 100
    for length, complete, coordinates in ((99, 0, 99), (100, 1, 100), (101, 1, 101), (300, 3, 300)):
        found = statistics_of(real_gradient()[-length:], size, "l2")
        assert len(found.buckets) == complete and found.coordinates == coordinates


def test_weights_of_tiny_and_huge_norms_stay_finite() -> None:
    """Pitfalls 3 and 4: squares of float32 norms neither overflow nor vanish in float64."""
    row = np.array([[0.6, -0.8]], dtype=np.float32)
    for norm in (1e-37, 1e38):
        found = GradientStatistics.from_normalised(row, [norm])
        assert found.usable and found.total_mass == pytest.approx(2 * float(np.float64(norm)) ** 2)
        assert np.isfinite(psi(PiecewiseUniform.from_statistics(found), [-1, 0, 1]))


def test_bytes_travel_and_damage_is_noticed() -> None:
    statistics = statistics_of(real_gradient(), 1024, "linf")
    data = statistics.to_bytes()
    assert len(data) < 26_000
    assert_alike(GradientStatistics.from_bytes(data), statistics)
    assert GradientStatistics.from_bytes(data).to_bytes() == data
    for damaged in (data[:-8], data + bytes(8), b"", b"XXXX" + data[4:], data[:20]):
        with pytest.raises(WireFormatError, match="expected"):
            GradientStatistics.from_bytes(damaged)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_resolution_suffices_for_8_bits_at_bucket_size_16384(norm: str) -> None:
    """The variance the histogram promises for 256 levels fitted to it is that of the raw coordinates, within 1 %."""
    from alq_hvd.quantiser.policies import Optimal, fixed

    statistics = statistics_of(real_gradient(), 16384, norm)
    update = Optimal().update(statistics, fixed.spread_exponential(8))
    promised = update.objective_after * statistics.total_mass / statistics.second_moment
    assert promised == pytest.approx(relative_variance(real_gradient(), 16384, norm, update.levels.values), rel=0.01)


def test_a_spike_in_one_bin_keeps_its_mean() -> None:
    """Pitfall 8: a histogram over [-1, 1] in equal steps would not see a deviation below 1e-4; means are exact here."""
    rng = np.random.default_rng(1)
    rows = rng.normal(0.003, 2e-6, (4, 1000)).astype(np.float32)
    distribution = PiecewiseUniform.from_statistics(GradientStatistics.from_normalised(rows, np.ones(4)))
    whole = distribution.cumulative(1.0)
    assert float(whole.first / whole.mass) == pytest.approx(float(rows.astype(np.float64).mean()), rel=1e-9)
