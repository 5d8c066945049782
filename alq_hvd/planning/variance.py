"""How far the mean that training sees is off, from the variance of each quantised hop."""

from __future__ import annotations


def mean_error(first: float, second: float, contributions: int, coherence: float = 0.0) -> float:
    """Return E|quantised mean - mean|^2 / |mean|^2 over ``contributions`` ranks, or nodes.

    Every gradient has |g|^2 = 1. Its own error is independent of the others', so the first shot's shrinks with the
    number of ranks; the second shot quantises the sum itself.

    Args:
        first: relative variance of the first shot, E|Q(g) - g|^2 / |g|^2.
        second: relative variance of the second, 0 when there is none.
        contributions: n.
        coherence: |E g|^2 / E|g|^2, the share of a gradient that all ranks have in common: 0 for noise, 1 for equal
            gradients.
    """
    mean = coherence + (1 - coherence) / contributions
    own = first / contributions
    return (own + second * (mean + own)) / mean
