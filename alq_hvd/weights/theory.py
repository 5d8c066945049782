"""What theory promises of quantised weights and gradients together: regret, its floor, and what clipping buys.

The setting is convex and online: gradients of norm at most G and entries at most G_inf, a domain of diameter D (an
entry: D_inf), losses whose gradients are L-Lipschitz, steps eta / sqrt t preconditioned by the root of the second
moment. The average regret over T steps is at most ``adaptive_regret`` times a slow-down, plus ``weight_floor``, plus
``clipping_regret`` where gradients are clipped. These are bounds: real gradients fare much better than the worst in d.

References:
    Hou, Zhang, Kwok, "Analysis of Quantized Models", ICLR 2019: all but the last two functions.
"""

from __future__ import annotations

import math

from alq_hvd.quantiser.config import require_int


def grid_step(bits: int) -> float:
    """Return Delta = 1 / (2^(bits - 1) - 1), the distance of neighbouring values on [-1, 1]; 1 for one bit.

    Raises:
        ConfigurationError: unless ``bits`` is 1 to 16.
    """
    require_int("bits", bits, 1, 16)
    return 1.0 if bits == 1 else 1 / (2 ** (bits - 1) - 1)


def adaptive_regret(
    domain: float, gradient: float, largest_gradient: float, dimension: int, rate: float, steps: int, beta: float
) -> float:
    """Return (D_inf^2 / (2 eta) + eta G_inf / sqrt(1 - beta)) G sqrt(d / T): average regret of exact gradients.

    Args:
        domain: D_inf, largest distance of two points in one coordinate.
        gradient: G, largest norm of a gradient.
        largest_gradient: G_inf, largest entry of one.
        dimension: d.
        rate: eta; the step at time t is eta / sqrt t.
        steps: T.
        beta: of the second moment.
    """
    front = domain**2 / (2 * rate) + rate * largest_gradient / math.sqrt(1 - beta)
    return front * gradient * math.sqrt(dimension / steps)


def weight_floor(
    smoothness: float, domain: float, dimension: int, largest_scale: float, step: float, inside: bool = False
) -> float:
    """Return L D sqrt(D^2 + d a^2 Delta_w^2 / 4): what quantised weights cost however long one trains.

    Args:
        smoothness: L.
        domain: D.
        dimension: d.
        largest_scale: a, the largest scale of a step.
        step: Delta_w, ``grid_step`` of the weights.
        inside: every |w| is at most its scale, so that only rounding is left: the D^2 under the root goes.
    """
    outside = 0.0 if inside else domain**2
    return smoothness * domain * math.sqrt(outside + dimension * (largest_scale * step) ** 2 / 4)


def gradient_slow_down(dimension: int, step: float, sharp: bool = False) -> float:
    """Return sqrt(1 + Delta_g (1 + sqrt(2d - 1)) / 2), by which stochastic gradients of few bits multiply the regret.

    Its square bounds E|Q(g)|^2 / |g|^2 for every g. ``sharp`` has (1 + sqrt d) / 2 instead, the least that does. For
    normal gradients the ratio grows like sqrt(log d) only: below 4 at 2 bits and below 1.5 at 3 for a million entries.
    """
    root = math.sqrt(dimension) if sharp else math.sqrt(2 * dimension - 1)
    return math.sqrt(1 + step * (1 + root) / 2)


def clipped_slow_down(clip: float, step: float) -> float:
    """Return sqrt(1 + sqrt(2 / pi) c Delta_g): the same for normal gradients clipped at c deviations, without any d."""
    return math.sqrt(1 + math.sqrt(2 / math.pi) * clip * step)


def clipped_square(clip: float) -> float:
    """Return E (clip(z) - z)^2 for standard normal z clipped at ``clip``: the square of clipping's bias, an entry.

    It is sqrt(2 / pi) F(c) with F(c) = -c exp(-c^2 / 2) + sqrt(pi / 2) (1 + c^2) (1 - erf(c / sqrt 2)).
    """
    tail = math.sqrt(math.pi / 2) * (1 + clip**2) * math.erfc(clip / math.sqrt(2))
    return math.sqrt(2 / math.pi) * (tail - clip * math.exp(-(clip**2) / 2))


def clipping_regret(dimension: int, domain: float, deviation: float, clip: float) -> float:
    """Return sqrt(d) D sigma sqrt(E (clip(z) - z)^2): what the bias of clipping adds to the average regret."""
    return math.sqrt(dimension * clipped_square(clip)) * domain * deviation


def stochastic_weights_floor(dimension: int, step: float, gradient: float) -> float:
    """Return sqrt(d) Delta G / 2: the floor of weights that are kept on a grid by stochastic rounding, for comparison.

    The analysis has full-precision gradients and strongly convex losses; Delta is the grid's absolute distance.

    References:
        Li et al., "Training Quantized Nets: A Deeper Understanding", NeurIPS 2017, from memory.
    """
    return math.sqrt(dimension) * step * gradient / 2


def ternary_second_moment(largest: float, sum_of_magnitudes: float) -> float:
    """Return |g|_inf |g|_1 = E|Q(g)|^2 of ternary gradients, which TernGrad's analysis needs to be bounded.

    That analysis has full-precision weights and shows almost sure convergence, without a rate in d or the bits.

    References:
        Wen et al., "TernGrad", NeurIPS 2017.
    """
    return largest * sum_of_magnitudes
