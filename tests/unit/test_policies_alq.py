"""ALQ and ALQG: the optimum of their own model, from any start, through intervals whose mass underflows."""

import re
from dataclasses import replace

import numpy as np
import pytest

from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.policies import Alq, AlqGradient, fixed
from alq_hvd.quantiser.policies.adoption import adopt
from alq_hvd.quantiser.policies.descent import descend
from alq_hvd.quantiser.policies.objective import gradient, psi
from alq_hvd.quantiser.policies.truncated_normal import TruncatedNormalMixture
from alq_hvd.quantiser.statistics import GradientStatistics
from tests.support.cases import each
from tests.support.model_statistics import MODELS, model_statistics
from tests.support.oracle import best_table

ADAPTIVE = [Alq(), Alq(0), AlqGradient(), AlqGradient(0)]


def optimum(model: TruncatedNormalMixture, count: int, *, zero: bool = False) -> float:
    """Return the least objective of any table, by brute force on the exact model."""
    shapes = {(round(mean, 3), round(sigma, 3)) for mean, sigma in zip(model.mean, model.deviation, strict=True)}
    around = np.concatenate([mean + sigma * np.linspace(-7, 7, 700 // len(shapes)) for mean, sigma in shapes])
    grid = np.concatenate([around, np.linspace(-1, 1, 101)])
    return best_table(model.cumulative, grid, count, zero=zero)[1]


@each("name", MODELS)
@each("bits", [2, 3, 4, 5])
def test_alq_reaches_the_optimum_of_its_own_model(name: str, bits: int) -> None:
    statistics = model_statistics(*MODELS[name])
    model = TruncatedNormalMixture.from_statistics(statistics)
    update = Alq().update(statistics, fixed.spread_exponential(bits))
    assert update.reason == "" and update.levels.version == 1
    assert update.objective_after == pytest.approx(float(psi(model, update.levels.values)))
    assert update.objective_after <= 1.001 * optimum(model, 2**bits)


@pytest.mark.parametrize("name", ["TN(0, .1)", "TN(0, 1/128)", "TN(.002, .011)"])
def test_alq_with_a_zero_level_reaches_the_optimum_that_has_one(name: str) -> None:
    statistics = model_statistics(*MODELS[name])
    model = TruncatedNormalMixture.from_statistics(statistics)
    update = Alq(zero_level=True).update(statistics, fixed.spread_exponential(3, zero_level=True))
    assert 0.0 in update.levels.values.tolist()
    assert update.objective_after <= 1.001 * optimum(model, 7, zero=True)


def test_256_levels_come_within_three_percent_of_the_high_resolution_limit() -> None:
    """The least cost of n levels tends to (int f^(1/3))^3 / (6 n^2); here sigma = .05 lies well inside [-1, 1]."""
    statistics = model_statistics([1.0], [0.0], [0.05])
    update = Alq().update(statistics, fixed.spread_exponential(8))
    integral = (2 * np.pi * 0.05**2) ** (-1 / 6) * 0.05 * np.sqrt(6 * np.pi)
    assert update.objective_after <= 1.03 * integral**3 / 6 / 256**2


@each("start", ["uniform", "exponential"])
@each("bits", [3, 4])
@each("deviation", [0.011, 1 / 128, 0.001])
def test_intervals_without_mass_do_not_stop_the_descent(start: str, bits: int, deviation: float) -> None:
    """Pitfall 7: here the authors' closed form returns the right neighbour and aborts on its own assertion."""
    model = TruncatedNormalMixture.of(0, deviation)
    begin = getattr(fixed, start)(bits).values.astype(np.float64)
    end = descend(model.tabulated(), begin[None, :], sweeps=2000)[0]
    assert np.all(np.diff(end) > 1e-7)
    assert psi(model, end) <= 1.01 * optimum(model, 2**bits)


def test_descent_never_raises_the_objective_and_ends_where_the_derivative_vanishes() -> None:
    table = TruncatedNormalMixture.of([0.0, 0.01], [0.02, 0.2]).tabulated()
    tables = np.stack([fixed.uniform(4).values, fixed.exponential(4).values]).astype(np.float64)
    before = psi(table, tables)
    for _ in range(60):
        tables = descend(table, tables, sweeps=1)
        after = psi(table, tables)
        assert np.all(after <= before * (1 + 1e-12))
        before = after
    tables = descend(table, tables, sweeps=5000, tolerance=1e-12)
    assert np.abs(gradient(table, tables)).max() < 1e-8


def test_the_update_of_one_level_is_where_the_distribution_equals_its_mean_over_the_interval() -> None:
    """Section 5: F(x*) = (1/(e-c)) int_c^e F(u) du."""
    table = TruncatedNormalMixture.of(0.1, 0.3).tabulated()
    found = descend(table, np.array([[-1.0, 0.5, 1.0]]))[0, 1]
    middles = np.linspace(-1, 1, 100_001)[:-1] + 1e-5
    assert float(table.cumulative(found).mass) == pytest.approx(float(table.cumulative(middles).mass.mean()), abs=1e-8)


def test_weights_decide_which_bucket_is_served() -> None:
    buckets = ([10.0, 1.0], [0.0, 0.0], [0.01, 0.2])
    widths = []
    for exponent in (2, 1, 0):
        statistics = model_statistics(*buckets, weight_exponent=exponent)
        levels = Alq(exponent).update(statistics, fixed.spread_exponential(2)).levels.values
        widths.append(float(levels[2] - levels[1]))
    assert widths[0] < widths[1] < widths[2]


def test_with_less_than_one_full_bucket_the_pooled_moments_are_the_model() -> None:
    rng = np.random.default_rng(5)
    row = rng.normal(size=(1, 100)).astype(np.float32)
    norm = np.linalg.norm(row)
    statistics = GradientStatistics.from_normalised(row / norm, [norm], complete=False)
    assert len(statistics.buckets) == 0
    model = TruncatedNormalMixture.from_statistics(statistics)
    assert model.deviation[0] == pytest.approx(float((row / norm).std()), rel=1e-5)
    assert Alq().update(statistics, fixed.spread_exponential(3)).reason == ""


@each("policy", ADAPTIVE)
def test_a_second_update_on_the_same_statistics_never_loses_what_the_first_won(policy: Alq | AlqGradient) -> None:
    statistics = model_statistics(*MODELS["TN(0, .1)"], weight_exponent=policy.weight_exponent)
    best = Alq(policy.weight_exponent).update(statistics, fixed.spread_exponential(4)).levels
    again = policy.update(statistics, best)
    assert again.objective_after <= again.objective_before
    assert again.levels is best or again.levels.version == best.version + 1
    assert (again.levels is best) == bool(again.reason)


def test_an_update_that_would_raise_the_objective_is_not_adopted() -> None:
    model = TruncatedNormalMixture.of(0, 0.1)
    current = Alq().update(model_statistics(*MODELS["TN(0, .1)"]), fixed.spread_exponential(4)).levels
    update = adopt(model, current, fixed.uniform(4).values[None, :].astype(np.float64))
    assert update.levels is current and "no better ones" in update.reason
    assert update.objective_after == update.objective_before == pytest.approx(float(psi(model, current.values)))


@each("policy", ADAPTIVE)
@each(
    ("change", "reason"),
    [
        ({"coordinates": 0, "zero_buckets": 4}, r"no coordinate was counted \(4 buckets are all zero\)"),
        ({"non_finite_buckets": 2}, "2 buckets of the gradient hold NaN or infinity"),
        ({"mass": np.zeros(GradientStatistics.empty(0).mass.shape)}, "total weight of the coordinates is 0"),
    ],
)
def test_unusable_statistics_keep_the_levels_and_say_why(policy, change, reason: str) -> None:  # type: ignore[no-untyped-def]
    """Pitfalls 1 and 2: nothing is fitted to zero buckets, or to a gradient that is not finite."""
    statistics = replace(model_statistics(*MODELS["TN(0, .1)"], policy.weight_exponent), **change)
    current = fixed.spread_exponential(3)
    update = policy.update(statistics, current)
    assert update.levels is current
    assert re.search(reason, update.reason)


@each("policy", ADAPTIVE)
@each("bits", range(1, 9))
def test_fitted_tables_are_valid_at_every_width(policy: Alq | AlqGradient, bits: int) -> None:
    """Pitfall 9: float32 levels stay apart; ``Levels`` itself raises otherwise."""
    for mean, deviation in ((0.0, 1e-5), (0.0, 0.01), (0.3, 0.5), (0.99, 0.001)):
        statistics = model_statistics([1.0], [mean], [deviation], policy.weight_exponent)
        update = policy.update(statistics, fixed.spread_exponential(bits))
        assert len(update.levels) == 2**bits
        assert update.levels.values[0] == -1 and update.levels.values[-1] == 1
        assert update.objective_after <= update.objective_before


def test_a_bucket_of_equal_coordinates_has_no_deviation_and_is_no_obstacle() -> None:
    """Pitfall 6."""
    statistics = model_statistics([1.0], [0.01], [0.0])
    update = Alq().update(statistics, fixed.spread_exponential(3))
    assert np.isfinite(update.objective_after) and update.objective_after < 1e-6
    assert np.abs(update.levels.values - 0.01).min() < 1e-3


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_alqg_lowers_the_objective_by_symmetric_tables(bits: int) -> None:
    statistics = model_statistics(*MODELS["TN(0, .1)"])
    update = AlqGradient().update(statistics, fixed.spread_exponential(bits))
    assert update.objective_after < update.objective_before
    np.testing.assert_allclose(update.levels.values, -update.levels.values[::-1], atol=1e-7)


def test_alqg_converges_to_alq_when_given_time() -> None:
    statistics = model_statistics(*MODELS["TN(0, .1)"])
    current = fixed.spread_exponential(3)
    patient = AlqGradient(sweeps=3000, learning_rate=0.2).update(statistics, current)
    assert patient.objective_after <= 1.001 * Alq().update(statistics, current).objective_after


def test_alqg_keeps_a_zero_level_in_the_middle() -> None:
    statistics = model_statistics(*MODELS["TN(0, .1)"])
    update = AlqGradient().update(statistics, Levels(np.array([-1, -0.5, -0.25, 0, 0.25, 0.5, 1], dtype=np.float32)))
    assert update.levels.values[3] == 0.0 and update.objective_after < update.objective_before
