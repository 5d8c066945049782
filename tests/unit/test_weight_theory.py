"""Every bound of the theory holds for what it bounds, measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from alq_hvd.errors import ConfigurationError
from alq_hvd.weights import theory

Vector = npt.NDArray[np.float64]


def second_moment(gradient: Vector, bits: int) -> float:
    """Return E|Q(g)|^2 of stochastic rounding to 2^(bits - 1) - 1 steps of max|g|, exactly."""
    steps = 2 ** (bits - 1) - 1
    scaled = np.abs(gradient) / np.abs(gradient).max() * steps
    part = scaled - np.floor(scaled)
    return float(((np.abs(gradient).max() / steps) ** 2 * (scaled**2 + part * (1 - part))).sum())


def quantise(gradient: Vector, bits: int, random: np.random.Generator, clip: float | None = None) -> Vector:
    if clip is not None:
        reach = clip * gradient.std()
        gradient = np.clip(gradient, -reach, reach)
    steps, scale = 2 ** (bits - 1) - 1, np.abs(gradient).max()
    levels = np.minimum(np.floor(np.abs(gradient) / scale * steps + random.random(gradient.shape)), steps)
    return scale / steps * np.sign(gradient) * levels


def test_slow_down_bounds_the_second_moment_of_every_gradient() -> None:
    random = np.random.default_rng(0)
    for dimension in (4, 100, 10_000):
        spike = np.ones(dimension)
        spike[0] = 1 + math.sqrt(dimension)
        for name, gradient in (("normal", random.standard_normal(dimension)), ("spike", spike),
                               ("heavy", random.standard_normal(dimension) ** 5)):  # fmt: skip
            for bits in (2, 3, 4, 8):
                step = theory.grid_step(bits)
                ratio = second_moment(gradient, bits) / float(gradient @ gradient)
                sharp = theory.gradient_slow_down(dimension, step, sharp=True) ** 2
                assert ratio <= sharp * (1 + 1e-12), (name, dimension, bits)
                assert sharp <= theory.gradient_slow_down(dimension, step) ** 2
        # It is the least constant: the spike attains it at 2 bits, once sqrt d beats the rest.
        attained = second_moment(spike, 2) / float(spike @ spike)
        assert attained == pytest.approx((1 + math.sqrt(dimension)) / 2, rel=1e-9)
        assert theory.ternary_second_moment(spike.max(), spike.sum()) == pytest.approx(second_moment(spike, 2))


def test_normal_gradients_fare_much_better_than_the_worst() -> None:
    gradient = np.random.default_rng(4).standard_normal(1_000_000)
    for bits, most in ((2, 4.0), (3, 1.5)):
        ratio = second_moment(gradient, bits) / float(gradient @ gradient)
        assert ratio < most < theory.gradient_slow_down(len(gradient), theory.grid_step(bits), sharp=True) ** 2 / 100


def test_clipping_takes_the_dimension_out() -> None:
    random = np.random.default_rng(1)
    for dimension in (1_000, 100_000):
        gradient = random.standard_normal(dimension)
        for clip in (1.0, 2.0, 3.0):
            clipped = np.clip(gradient, -clip, clip)
            for bits in (2, 3, 4):
                ratio = second_moment(clipped, bits) / float(gradient @ gradient)
                assert ratio <= theory.clipped_slow_down(clip, theory.grid_step(bits)) ** 2 * 1.02, (clip, bits)


def test_the_bias_of_clipping_is_what_it_says() -> None:
    for clip, expected in ((1.0, 0.15068), (2.0, 0.011537), (2.5, 0.0023986), (3.0, 0.00040687)):
        assert theory.clipped_square(clip) == pytest.approx(expected, rel=1e-4)
    draws = np.random.default_rng(2).standard_normal(1_000_000)
    for clip in (1.0, 2.0):
        measured = float(((np.clip(draws, -clip, clip) - draws) ** 2).mean())
        assert measured == pytest.approx(theory.clipped_square(clip), rel=0.03)
    # |<bias, w - w*>| <= |bias| D: the term that is added to the regret.
    bias = np.clip(draws[:1000], -1, 1) - draws[:1000]
    assert float(np.linalg.norm(bias)) == pytest.approx(theory.clipping_regret(1000, 1.0, 1.0, 1.0), rel=0.1)


def play(
    dimension: int, steps: int, weight_bits: int | None, gradient_bits: int | None, seed: int, clip: float | None = None
) -> dict[str, Any]:
    """Play online least squares with RMSprop; return the average regret and the constants of its bound, as measured."""
    random = np.random.default_rng(seed)
    rate, beta = 0.1, 0.99
    target = random.random(dimension) - 0.5
    inputs = random.random((steps, dimension)) - 0.5
    labels = inputs @ target + 0.1 * random.standard_normal(steps)
    best = np.linalg.lstsq(inputs, labels, rcond=None)[0]
    weights, moment, losses = np.zeros(dimension), np.zeros(dimension), np.zeros(steps)
    domain, largest, norm, scales = 0.0, 0.0, 0.0, [0.0]
    for t in range(1, steps + 1):
        quantised = weights
        if weight_bits is not None and weights.any():
            scale = float(np.abs(weights).max())  # every |w| within the scale
            k = 2 ** (weight_bits - 1) - 1
            quantised = scale * np.sign(weights) * np.floor(np.abs(weights) / scale * k + 0.5) / k
            scales.append(scale)
        off = float(inputs[t - 1] @ quantised - labels[t - 1])
        losses[t - 1] = off**2 / 2 - float(inputs[t - 1] @ best - labels[t - 1]) ** 2 / 2
        gradient = off * inputs[t - 1]
        norm, largest = max(norm, float(np.linalg.norm(gradient))), max(largest, float(np.abs(gradient).max()))
        if gradient_bits is not None:
            gradient = quantise(gradient, gradient_bits, random, clip)
        moment = beta * moment + (1 - beta) * gradient**2
        weights = weights - rate / math.sqrt(t) * gradient / (np.sqrt(moment / (1 - beta**t)) + 1e-8)
        domain = max(domain, float(np.abs(weights - best).max()))
    smooth = float((inputs**2).sum(1).max())
    distance = domain * math.sqrt(dimension)
    regret = theory.adaptive_regret(domain, norm, largest, dimension, rate, steps, beta)
    return {
        "regret": float(losses.mean()),
        "bound": regret,
        "smooth": smooth,
        "distance": distance,
        "scale": max(scales),
    }


def test_regret_stays_below_its_bounds_and_the_floor_remains() -> None:
    dimension = 20
    for seed in range(2):
        exact = play(dimension, 3000, None, None, seed)
        assert 0 < exact["regret"] <= exact["bound"]
        few = play(dimension, 3000, None, 3, seed)
        assert few["regret"] <= few["bound"] * theory.gradient_slow_down(dimension, theory.grid_step(3))
        clipped = play(dimension, 3000, None, 3, seed, clip=2.0)
        extra = theory.clipping_regret(dimension, clipped["distance"], 1.0, 2.0)
        assert clipped["regret"] <= clipped["bound"] * theory.clipped_slow_down(2.0, theory.grid_step(3)) + extra
        long = {bits: play(dimension, 6000, bits, None, seed) for bits in (2, 3, 4)}
        for bits, found in long.items():
            floor = theory.weight_floor(
                found["smooth"], found["distance"], dimension, found["scale"], theory.grid_step(bits), inside=True
            )
            assert found["regret"] <= found["bound"] + floor
            assert floor < theory.weight_floor(
                found["smooth"], found["distance"], dimension, found["scale"], theory.grid_step(bits)
            )
        assert long[2]["regret"] > 2 * long[3]["regret"] > 2 * long[4]["regret"], "coarser weights cost more, for good"


def test_stochastic_weights_settle_below_the_floor_of_their_analysis() -> None:
    random = np.random.default_rng(3)
    for dimension, grid in ((10, 0.05), (100, 0.05), (100, 0.2)):
        target = random.random(dimension)
        weights, excess, largest = np.zeros(dimension), [], 0.0
        for t in range(1, 2001):
            gradient = weights - target + 0.1 * random.standard_normal(dimension)  # of |w - target|^2 / 2
            largest = max(largest, float(np.linalg.norm(gradient)))
            moved = (weights - gradient / t) / grid
            weights = grid * np.floor(moved + random.random(dimension))
            excess.append(float(((weights - target) ** 2).sum()) / 2)
        settled = float(np.mean(excess[-500:]))
        transient = (1 + math.log(2001)) * largest**2 / (2 * 2000)
        assert 0 < settled <= theory.stochastic_weights_floor(dimension, grid, largest) + transient


def test_grid_steps() -> None:
    assert [theory.grid_step(bits) for bits in (1, 2, 3, 4)] == [1.0, 1.0, 1 / 3, 1 / 7]
    with pytest.raises(ConfigurationError, match="bits: expected an integer from 1 to 16, got 0"):
        theory.grid_step(0)
