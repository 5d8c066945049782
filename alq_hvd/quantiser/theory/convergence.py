"""What quantisation variance costs in steps: the standard bounds for stochastic gradient descent."""

from __future__ import annotations

import math
from collections.abc import Sequence


def gradient_variance(variance: float, second_moment: float, relative_variance: float, ranks: int) -> float:
    """Return (variance + eps B) / n: the variance of the mean of n independently quantised gradients.

    Args:
        variance: E|g - E g|^2 of one rank's stochastic gradient.
        second_moment: B, E|g|^2 of it.
        relative_variance: eps, of the quantiser.
        ranks: n.
    """
    return (variance + relative_variance * second_moment) / ranks


def convex_bound(distance: float, deviation: float, smoothness: float, steps: int) -> float:
    """Return R sigma sqrt(2/T) + beta R^2 / T: expected excess loss of the averaged iterate of a convex problem.

    The step size is 1 / (beta + 1/gamma) with gamma = (R/sigma) sqrt(2/T).

    Args:
        distance: R, at least the distance from the start to a minimiser.
        deviation: sigma, square root of the variance of the gradient estimate.
        smoothness: beta, Lipschitz constant of the gradient.
        steps: T.

    References:
        Bubeck, "Convex Optimization: Algorithms and Complexity", 2015, Theorem 6.3; used for quantised gradients by
        Alistarh et al., NeurIPS 2017, and Faghri et al., NeurIPS 2020.
    """
    return distance * deviation * math.sqrt(2 / steps) + smoothness * distance**2 / steps


def slow_down(relative_variance: float, signal_to_noise: float = 0.0) -> float:
    """Return how many times more steps bring the noise term of ``convex_bound`` to the same value: 1 + eps B / var.

    Args:
        relative_variance: eps of the quantiser.
        signal_to_noise: |E g|^2 / E|g - E g|^2 of one rank's gradient, so that B / var = 1 + that; near 0 late in
            training and with small batches.
    """
    return 1 + relative_variance * (1 + signal_to_noise)


def time_average(durations: Sequence[float], values: Sequence[float]) -> float:
    """Return sum T_k x_k / sum T_k: the effective relative variance, or bits, of a run whose levels were adapted.

    It holds when levels depend on the past only, so that each estimate is unbiased given the past.

    References:
        Faghri et al., NeurIPS 2020, the convergence theorem for adaptive levels.
    """
    total = sum(durations)
    return sum(duration * value for duration, value in zip(durations, values, strict=True)) / total
