"""The levels for normal coordinates that are rounded to the nearest."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.config import LARGEST_CENTROIDS
from alq_hvd.quantiser.policies.lloyd_max import lloyd_max
from tests.support.cases import each


@each("bits", range(1, 9))
def test_every_level_is_the_mean_of_what_rounds_to_it(bits: int) -> None:
    table = lloyd_max(bits).values.astype(np.float64) * LARGEST_CENTROIDS[bits - 1]
    assert len(table) == 2**bits and np.array_equal(table, -table[::-1])
    ends = np.concatenate([[-np.inf], (table[1:] + table[:-1]) / 2, [np.inf]])
    means = (norm.pdf(ends[:-1]) - norm.pdf(ends[1:])) / np.diff(norm.cdf(ends))
    lower = slice(len(table) // 2)  # where the distribution function does not cancel
    np.testing.assert_allclose(table[lower], means[lower], atol=1e-5)


@each(("bits", "distortion"), [(1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497), (5, 0.0025)])
def test_distortions_are_those_of_max_1960(bits: int, distortion: float) -> None:
    table = lloyd_max(bits).values.astype(np.float64) * LARGEST_CENTROIDS[bits - 1]
    error = sum(
        quad(lambda x, level=level: (x - level) ** 2 * norm.pdf(x), low, high)[0]
        for level, low, high in zip(
            table,
            np.concatenate([[-12], (table[1:] + table[:-1]) / 2]),
            np.concatenate([(table[1:] + table[:-1]) / 2, [12]]),
            strict=True,
        )
    )
    assert error == pytest.approx(distortion, rel=2e-3)


def test_an_undefined_width_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="bits"):
        lloyd_max(9)
