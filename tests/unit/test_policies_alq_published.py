"""The authors' solver: right where its steps are stable, far from its own optimum where they are not."""

import numpy as np
import pytest

from alq_hvd.quantiser.policies import Alq, fixed
from benchmarks.alq_published import AlqPublished
from tests.support.model_statistics import model_statistics
from tests.support.real_gradient import real_gradient, relative_variance, statistics_of


def test_it_finds_the_optimum_where_its_steps_are_stable() -> None:
    statistics = model_statistics([1.0], [0.0], [0.5], weight_exponent=1)
    start = fixed.spread_exponential(2)
    published, exact = AlqPublished(sweeps=200).update(statistics, start), Alq(1).update(statistics, start)
    assert published.objective_after == pytest.approx(exact.objective_after, rel=1e-2)


def test_it_ends_far_above_its_own_optimum_with_euclidean_norms_and_large_buckets() -> None:
    """Section 6: a step is stable only if (e - c) f(x) < 2; here f(0) is about 0.4 sqrt(d)."""
    statistics = model_statistics([1.0], [0.0], [1 / 128], weight_exponent=1)
    start = fixed.spread_exponential(3)
    published, exact = AlqPublished().update(statistics, start), Alq(1).update(statistics, start)
    assert exact.objective_after * 1.5 < published.objective_after < published.objective_before


def test_the_converged_optimum_of_the_model_is_the_worse_table_for_real_gradients() -> None:
    """Section 11: truncated normals do not see the tails; stopping early leaves levels there."""
    statistics = statistics_of(real_gradient(), 8192, "l2", 1)
    start = fixed.spread_exponential(3)
    published, exact = AlqPublished().update(statistics, start).levels, Alq(1).update(statistics, start).levels
    measured = [relative_variance(real_gradient(), 8192, "l2", levels.values) for levels in (published, exact)]
    assert measured[0] < measured[1]


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_tables_are_valid_although_steps_are_not_projected(bits: int) -> None:
    update = AlqPublished(sweeps=3).update(
        model_statistics([1.0], [0.0], [0.01], weight_exponent=1), fixed.spread_exponential(bits)
    )
    assert len(update.levels) == 2**bits and np.all(np.diff(update.levels.values) > 0)
    assert update.objective_after <= update.objective_before
