"""The published model and its objective: closed forms against quadrature, and against a brute-force optimum."""

import itertools

import numpy as np
import pytest
from scipy import integrate, stats

from alq_hvd.quantiser.policies.distributions import PiecewiseUniform
from alq_hvd.quantiser.policies.objective import gradient, psi
from alq_hvd.quantiser.policies.truncated_normal import TruncatedNormalMixture, interval_mass
from tests.support.cases import each

MODELS = {
    "TN(0, .1)": TruncatedNormalMixture.of(0, 0.1),
    "TN(.3, .5)": TruncatedNormalMixture.of(0.3, 0.5),
    "TN(0, 1/128)": TruncatedNormalMixture.of(0, 1 / 128),
    "TN(.002, .011)": TruncatedNormalMixture.of(0.002, 0.011),
    "mixture": TruncatedNormalMixture.of([0.0, 0.01, -0.05], [0.02, 0.1, 0.3], [3.0, 1.0, 0.5]),
}


def density(model: TruncatedNormalMixture, r: float) -> float:
    parts = stats.truncnorm.pdf(
        r, (-1 - model.mean) / model.deviation, (1 - model.mean) / model.deviation, model.mean, model.deviation
    )
    return float(np.dot(model.weight, parts))


@each("name", MODELS)
@each("interval", [(-1.0, -0.01), (-0.02, 0.005), (0.005, 0.03), (0.03, 1.0)])
def test_moments_equal_quadrature(name: str, interval: tuple[float, float]) -> None:
    model = MODELS[name]
    low, high = (model.cumulative(end) for end in interval)
    breaks = sorted({*interval, *np.clip(np.add.outer(model.mean, np.arange(-8, 9) * 0.01).ravel(), *interval)})
    for power, (below, above) in enumerate(zip(low, high, strict=True)):
        expected = sum(
            integrate.quad(lambda r, p=power: r**p * density(model, r), a, b, epsabs=1e-13)[0]
            for a, b in itertools.pairwise(breaks)
        )
        assert float(above - below) == pytest.approx(expected, abs=1e-10)


@each("name", MODELS)
def test_the_whole_has_mass_one(name: str) -> None:
    assert float(MODELS[name].cumulative(1.0).mass) == pytest.approx(1, abs=1e-14)
    assert float(MODELS[name].tabulated().cumulative(1.0).mass) == pytest.approx(1, abs=1e-12)


def test_a_tail_interval_keeps_its_relative_precision() -> None:
    """Pitfall 7: beyond eight deviations the distribution function is flat in float64; the interval is not empty."""
    left, right = interval_mass(np.array([-13.0, 12.0]), np.array([-12.0, 13.0]))
    assert right == left == pytest.approx(stats.norm.sf(12) - stats.norm.sf(13), rel=1e-12)
    assert right > 0


@each("name", MODELS)
def test_tabulating_changes_no_objective_by_more_than_a_thousandth(name: str) -> None:
    model = MODELS[name]
    table = model.tabulated()
    for count in (4, 8, 16):
        levels = np.sort(np.concatenate([[-1, 1], model.mean[0] + model.deviation[0] * np.linspace(-3, 3, count - 2)]))
        levels = np.clip(levels, -1, 1)
        assert psi(table, levels) == pytest.approx(float(psi(model, levels)), rel=1e-3)


def test_many_alike_components_are_merged_without_changing_mean_and_variance() -> None:
    rng = np.random.default_rng(1)
    model = TruncatedNormalMixture.of(rng.normal(0, 1e-3, 350), rng.uniform(0.01, 0.02, 350), rng.uniform(1, 2, 350))
    merged = model.merged()
    assert len(merged.weight) <= 24
    for part in (lambda m: np.dot(m.weight, m.mean), lambda m: np.dot(m.weight, m.mean**2 + m.deviation**2)):
        assert part(merged) == pytest.approx(part(model), rel=1e-12)


def test_psi_of_uniform_coordinates_is_a_sixth_of_the_squared_spacing() -> None:
    """Section 5's sanity check."""
    flat = PiecewiseUniform.from_bins(np.array([-1.0, 1.0]), np.array([1.0]), np.array([0.0]))
    for count in (2, 3, 8, 256):
        assert psi(flat, np.linspace(-1, 1, count)) == pytest.approx((2 / (count - 1)) ** 2 / 6)


def test_psi_equals_the_mean_over_samples_of_the_rounding_variance() -> None:
    rng = np.random.default_rng(2)
    samples = np.clip(rng.standard_t(3, 5000) * 0.05, -1, 1)
    edges = np.unique(np.concatenate([samples, [-1, 1]]))
    mass = np.histogram(samples, edges)[0].astype(float)
    exact = PiecewiseUniform.from_bins(edges, mass, mass * edges[:-1])
    levels = np.array([-0.4, -0.1, 0.02, 0.3])
    clamped = np.clip(samples, levels[0], levels[-1])
    high = np.clip(np.searchsorted(levels, clamped, side="right"), 1, 3)
    variance = (levels[high] - clamped) * (clamped - levels[high - 1]) + (samples - clamped) ** 2
    assert float(psi(exact, levels)) == pytest.approx(variance.mean(), abs=2e-4 * variance.mean())


@each("name", MODELS)
def test_gradient_equals_finite_differences(name: str) -> None:
    model = MODELS[name]
    levels = np.concatenate([[-1], model.mean[0] + model.deviation[0] * np.array([-1.5, -0.5, 0.4, 1.3]), [1]])
    found = gradient(model, levels)
    for i in range(1, 5):
        step = 1e-6 * model.deviation[0]
        up, down = levels.copy(), levels.copy()
        up[i] += step
        down[i] -= step
        numeric = float(psi(model, up) - psi(model, down)) / (2 * step)
        assert found[i - 1] == pytest.approx(numeric, rel=1e-4, abs=1e-7)
