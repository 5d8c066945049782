"""Every scheme finds the best scales there are, and its gradient is the one that is stated."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch

from alq_hvd.errors import ConfigurationError
from alq_hvd.weights import schemes, solving
from alq_hvd.weights.schemes import Grid, Scheme, scheme


def brute_force(weights: torch.Tensor, curvature: torch.Tensor, grid: Sequence[float]) -> float:
    """Return the least sum D (w - a b)^2 over every b there is, each with its best a >= 0."""
    values = sorted({sign * magnitude for magnitude in grid for sign in (-1, 1)})
    every = torch.tensor(list(itertools.product(values, repeat=len(weights))), dtype=torch.float64)
    moment = (every * curvature * weights).sum(1).clamp(min=0)
    mass = (every.square() * curvature).sum(1)
    gain = torch.where(mass > 0, moment.square() / mass.clamp(min=1e-300), torch.zeros(()).double())
    return float((curvature * weights.square()).sum() - gain.max())


def error(made: Scheme, weights: torch.Tensor, curvature: torch.Tensor, scales: torch.Tensor | None) -> float:
    return float((curvature * (weights - made.quantise(weights, scales)).square()).sum())


def draw(seed: int, count: int, kind: str = "normal") -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(count, generator=generator, dtype=torch.float64)
    if kind == "heavy":
        weights = weights.sign() * weights.abs() ** 3
    elif kind == "ties":
        weights = (2 * weights).round()
    elif kind == "uniform":
        weights = torch.rand(count, generator=generator, dtype=torch.float64) - 0.5
    return weights, torch.randn(count, generator=generator, dtype=torch.float64).square() + 1e-3


KINDS = ("normal", "heavy", "ties", "uniform")
GRIDS = [("lab", 1, 10), ("laq", 2, 8), ("laq", 3, 5), ("laq", 4, 4), ("laq_log", 3, 5), ("laq_log", 4, 4)]


def test_exact_solvers_equal_brute_force() -> None:
    for (name, bits, longest), kind in itertools.product(GRIDS, KINDS):
        made = scheme(name, bits)
        assert isinstance(made, Grid)
        for count in (1, 2, longest):
            for seed in range(6):
                weights, curvature = draw(seed, count, kind)
                got = error(made, weights, curvature, made.solve(weights, curvature))
                best = brute_force(weights, curvature, made.magnitudes)
                scale = float((curvature * weights.square()).sum())
                assert abs(got - best) <= 1e-9 * scale, (name, bits, kind, count, seed, got, best)


def test_both_scales_of_lat2_equal_brute_force() -> None:
    made = scheme("lat2")
    for kind, seed in itertools.product(KINDS, range(6)):
        weights, curvature = draw(seed, 9, kind)
        sides = [weights.clamp(min=0), weights.clamp(max=0)]
        best = sum(brute_force(side[side != 0], curvature[side != 0], (0.0, 1.0)) for side in sides)
        got = error(made, weights, curvature, made.solve(weights, curvature))
        assert got == pytest.approx(best, rel=1e-9, abs=1e-12), (kind, seed)


def test_closed_forms() -> None:
    weights, curvature = draw(0, 1000)
    binary = scheme("lab").solve(weights, curvature)
    assert binary.item() == pytest.approx(float((curvature * weights.abs()).sum() / curvature.sum()), rel=1e-12)
    flat = scheme("lab").quantise(weights, scheme("lab").solve(weights, None))
    torch.testing.assert_close(flat, scheme("bwn").quantise(weights, None), rtol=1e-12, atol=0)
    # Ternary: the prefix of the largest weights with the largest P^2 / R.
    order = weights.abs().argsort(descending=True)
    sums = (curvature * weights.abs())[order].cumsum(0), curvature[order].cumsum(0)
    best = (sums[0].square() / sums[1]).argmax()
    assert scheme("laq", 2).solve(weights, curvature).item() == pytest.approx(float(sums[0][best] / sums[1][best]))


def test_fast_paths_stay_within_two_percent_of_the_best() -> None:
    for bits, kind in itertools.product(range(1, 9), ("normal", "heavy", "uniform")):
        made = scheme("laq", bits) if bits > 1 else scheme("lab")
        assert isinstance(made, Grid)
        weights, curvature = draw(bits, 1500, kind)
        scales = made.solve(weights, curvature)
        best = error(made, weights, curvature, scales)
        searched = solving.search(weights.abs(), curvature, made.magnitudes)[None]
        assert error(made, weights, curvature, searched) <= 1.02 * best, (bits, kind, "search")
        # As in training: weights and curvature move a little each step, two rounds follow.
        generator = torch.Generator().manual_seed(0)
        for turn in range(100):
            weights = weights + 0.003 * torch.randn(1500, generator=generator, dtype=torch.float64) * weights.std()
            curvature = curvature * (1 + 0.01 * torch.randn(1500, generator=generator, dtype=torch.float64)).abs()
            scales = made.improve(weights, curvature, scales, turn)
        best = error(made, weights, curvature, made.solve(weights, curvature))
        assert error(made, weights, curvature, scales) <= 1.02 * best, (bits, kind, "warm start")


def test_many_weights_are_searched_and_not_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, curvature = draw(3, 2000)
    made = scheme("laq", 4)
    best = error(made, weights, curvature, made.solve(weights, curvature))
    monkeypatch.setattr(solving, "EXACT_EVENTS", 100)
    monkeypatch.setattr(solving, "sweep", lambda *_: pytest.fail("swept 14 000 breakpoints"))
    assert error(made, weights, curvature, made.solve(weights, curvature)) <= 1.02 * best


def test_float32_and_scaled_curvature_give_the_same_scale() -> None:
    weights, curvature = draw(5, 4000)
    for bits in (2, 3, 4):
        made = scheme("laq", bits)
        wide = made.solve(weights, curvature).item()
        assert made.solve(weights, 1e-12 * curvature).item() == pytest.approx(wide, rel=1e-12)
        narrow = error(made, weights, curvature, made.solve(weights.float(), curvature.float()).double())
        assert narrow <= error(made, weights, curvature, made.solve(weights, curvature)) * (1 + 1e-6)


def test_zero_and_single_weights_are_exact_and_zero_has_a_fixed_place() -> None:
    for name in ("lab", "laq", "lat2", "laq_log", "bwn", "lq_net"):
        made = scheme(name)
        for weights in (torch.zeros(4, 3), torch.full((1, 1), -0.7), torch.full((1, 1), 0.7)):
            quantised = made.quantise(weights, made.solve(weights, None))
            torch.testing.assert_close(quantised, weights, rtol=1e-6, atol=1e-9, msg=f"{name} {weights.tolist()}")
    binary = torch.tensor([0.0, -0.0, 2.0, -2.0])
    for name in ("lab", "bwn"):
        made = scheme(name)
        assert made.quantise(binary, made.solve(binary, None)).sign().tolist() == [1, 1, 1, -1], name
    # Halves go up, whatever the parity: torch.round would send a weight of 0 down at one bit.
    assert scheme("dorefa", 1).quantise(torch.tensor([0.0, 1.0, -1.0]), None).tolist() == [1, 1, -1]
    assert scheme("dorefa", 2).quantise(torch.zeros(2), None).tolist() == pytest.approx([1 / 3, 1 / 3])


def test_quantised_weights_are_the_nearest_values() -> None:
    weights, _ = draw(7, 400)
    weights = weights.view(20, 20)
    for name in schemes.NAMES:
        low, high = schemes.bits_of(name)
        for bits in {low, min(3, high), high}:
            made = scheme(name, bits)
            scales = made.solve(weights, None)
            quantised, values = made.quantise(weights, scales), made.values(weights, scales)
            rows = values if values.dim() == 2 else values.expand(20, -1)
            assert torch.all(rows.diff(dim=1) > 0)
            assert rows.shape[1] <= 2**bits
            distance = (quantised[:, :, None] - rows[:, None, :]).abs().min(dim=2).values
            assert float(distance.max()) < 1e-12, (name, bits)
            if name == "dorefa":  # nearest after tanh
                continue
            nearest = (weights[:, :, None] - rows[:, None, :]).abs().min(dim=2).values
            torch.testing.assert_close((weights - quantised).abs(), nearest, msg=f"{name} {bits}")


def test_gradients_are_the_stated_straight_through_ones() -> None:
    weights = torch.tensor([-1.5, -0.5, 0.25, 0.75, 1.25], dtype=torch.float64, requires_grad=True)
    upstream = torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0], dtype=torch.float64)
    tanh = weights.detach().tanh()
    stated = {
        "lab": upstream,
        "laq": upstream,
        "lat2": upstream,
        "laq_log": upstream,
        "lq_net": upstream,
        "bwn": upstream * 0.85 * torch.tensor([0, 1, 1, 1, 0]),  # 0.85 = mean |w|
        "dorefa": upstream * (1 - tanh**2) / tanh.abs().max(),
    }
    for name, expected in stated.items():
        (gradient,) = torch.autograd.grad(scheme(name).surrogate(weights), weights, upstream)
        torch.testing.assert_close(gradient, expected, msg=name)


def test_lq_net_follows_each_channel_and_beats_equal_spacing() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(6, 500, generator=generator, dtype=torch.float64) ** 3
    weights = weights * torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0], [32.0]], dtype=torch.float64)
    made = scheme("lq_net", 2)
    learned = made.solve(weights, None)
    quantised = made.quantise(weights, learned)
    ones, equal = torch.ones_like(weights), scheme("laq", 2)
    assert error(made, weights, ones, learned) < 0.8 * error(equal, weights, ones, equal.solve(weights, None))
    for row in range(6):
        assert len(quantised[row].unique()) == 4
        # Alternating least squares has come to rest: v is the best one for its codes.
        again = made.improve(weights, None, learned, 0)
        torch.testing.assert_close(again[row], learned[row], rtol=2e-2, atol=0)


def test_names_and_widths_are_checked() -> None:
    for name, bits, message in (
        ("laqq", 3, "expected one of lab, laq, lat2"),
        ("laq", 1, "laq is defined at 2 to 8 bits, got 1"),
        ("laq", 9, "laq is defined at 2 to 8 bits, got 9"),
        ("lab", 2, "lab is defined at 1 bit only, got 2"),
        ("lat2", 3, "lat2 is defined at 2 bits only, got 3"),
        ("laq", True, "got True"),
        ("laq", 2.0, "got 2.0"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            scheme(name, bits)  # type: ignore[arg-type]
    assert [scheme(name).bits for name in schemes.NAMES] == [1, 3, 2, 3, 1, 1, 2]
    assert all(schemes.description(name) for name in schemes.NAMES)


def test_everything_happens_on_the_device_of_the_weights() -> None:
    """No GPU is at hand: the meta device refuses to be mixed with others, too, and to be waited for."""
    weights = torch.empty(20, 20, device="meta")
    curvature = torch.empty(20, 20, device="meta")
    for name in schemes.NAMES:
        made = scheme(name)
        scales = made.solve(weights, curvature)
        for found in (made.improve(weights, curvature, scales, 3), made.quantise(weights, scales),
                      made.surrogate(weights), made.values(weights, scales)):  # fmt: skip
            assert found is None or found.device.type == "meta", name
    searched = solving.search(weights.flatten(), curvature.flatten(), (0.0, 0.5, 1.0))
    assert searched.device.type == "meta"
