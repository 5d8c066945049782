"""Statistics whose published model is known: what the buckets' moments would be, without any coordinates."""

from dataclasses import replace

import numpy as np

from alq_hvd.quantiser.statistics import BINS, GradientStatistics

MODELS = {
    "TN(0, .1)": ([1.0], [0.0], [0.1]),
    "TN(0, 1/128)": ([1.0], [0.0], [1 / 128]),
    "TN(.002, .011)": ([1.0], [0.002], [0.011]),
    "mixture of scales": ([3.0, 1.0, 2.0], [0.0, 0.01, -0.003], [0.01, 0.1, 0.03]),
    "350 buckets": (
        np.geomspace(10, 0.1, 350),
        np.random.default_rng(3).normal(0, 2e-4, 350),
        np.random.default_rng(4).uniform(0.9, 1.1, 350) / 128,
    ),
}
"""Norms, means and deviations of buckets: the specification's distributions, and mixtures."""


def model_statistics(norm, mean, deviation, weight_exponent: int = 2) -> GradientStatistics:  # type: ignore[no-untyped-def]
    """Return statistics with these buckets; the histogram holds one dummy coordinate, which no model looks at."""
    mass = np.zeros(BINS)
    mass[BINS // 2] = 1.0
    buckets = np.stack([np.asarray(part, dtype=np.float64) for part in (norm, mean, deviation)], axis=1)
    count = 1000
    return replace(
        GradientStatistics.empty(weight_exponent),
        mass=mass,
        coordinates=count,
        pooled_sum=count * float(np.mean(buckets[:, 1])),
        pooled_squares=count * float(np.mean(buckets[:, 2] ** 2)),
        buckets=buckets,
    )
