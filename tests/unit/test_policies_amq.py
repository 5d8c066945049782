"""AMQ: the best multiplier of its own model, and nothing but multipliers that float32 tables can hold."""

import numpy as np
from scipy.optimize import minimize_scalar

from alq_hvd.quantiser.policies import Amq, fixed
from alq_hvd.quantiser.policies.amq import best_multiplier
from alq_hvd.quantiser.policies.objective import psi
from alq_hvd.quantiser.policies.starts import exponential
from alq_hvd.quantiser.policies.truncated_normal import TruncatedNormalMixture
from alq_hvd.quantiser.statistics import GradientStatistics
from tests.support.cases import each
from tests.support.model_statistics import MODELS, model_statistics


@each("name", MODELS)
@each(("bits", "zero"), [(2, False), (3, False), (4, False), (5, False), (3, True), (4, True)])
def test_amq_finds_the_best_multiplier_of_its_own_model(name: str, bits: int, zero: bool) -> None:
    statistics = model_statistics(*MODELS[name])
    model = TruncatedNormalMixture.from_statistics(statistics)
    count = 2**bits - zero
    update = Amq().update(statistics, fixed.spread_exponential(bits, zero_level=zero))

    def objective(p: float) -> float:
        return float(psi(model, exponential(count, p)))

    coarse = np.linspace(0.005, 0.995, 199)
    best = coarse[int(np.argmin([objective(p) for p in coarse]))]
    exact = minimize_scalar(objective, bounds=(max(best - 0.005, 1e-3), best + 0.005), method="bounded")
    assert update.objective_after <= 1.001 * exact.fun


@each("bits", range(2, 9))
@each("deviation", [1e-5, 1e-3, 0.1, 5.0])
def test_every_fitted_table_is_one_geometric_sequence_inside_the_range_of_float32(bits: int, deviation: float) -> None:
    """Pitfall 10: the published steps on p can leave (0, 1), and p^s underflows from 6 bits on."""
    update = Amq().update(model_statistics([1.0], [0.0], [deviation]), fixed.spread_exponential(bits))
    positive = update.levels.values[2 ** (bits - 1) :].astype(np.float64)
    assert len(positive) == 2 ** (bits - 1) and positive[-1] == 1
    ratios = positive[:-1] / positive[1:]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-3)
    assert 0 < ratios[0] < 1


def test_the_central_bin_counts() -> None:
    """Defect of the published code: its starts are compared over positive levels only, the central bin left out.

    At two bits without the central bin the best multiplier would be near zero.
    """
    table = TruncatedNormalMixture.of(0, 0.1).tabulated()
    multiplier = best_multiplier(table, 4)
    assert 0.05 < multiplier < 0.3


def test_the_unweighted_variant_reads_the_pooled_moments() -> None:
    weighted = model_statistics([10.0, 1.0], [0.0, 0.0], [0.01, 0.2])
    unweighted = model_statistics([10.0, 1.0], [0.0, 0.0], [0.01, 0.2], weight_exponent=0)
    start = fixed.spread_exponential(2)
    assert Amq(0).update(unweighted, start).levels.values[2] > 2 * Amq(2).update(weighted, start).levels.values[2]


def test_two_levels_have_no_multiplier() -> None:
    current = fixed.spread_exponential(1)
    update = Amq().update(model_statistics(*MODELS["TN(0, .1)"]), current)
    assert update.levels is current and "no multiplier" in update.reason


def test_unusable_statistics_keep_the_levels() -> None:
    current = fixed.spread_exponential(3)
    update = Amq().update(GradientStatistics.empty(2), current)
    assert update.levels is current and "no coordinate was counted" in update.reason
