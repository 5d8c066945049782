"""Narrow accumulators in training: layers that emulate them, what they observe, and buffers of micro-batches."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from alq_hvd.accumulation import (
    Adder,
    Adders,
    GradientAccumulator,
    emulate_accumulators,
    emulated,
    min_mantissa,
    observe,
    planned_adders,
)
from alq_hvd.accumulation.observed import Sums, sums_of
from alq_hvd.errors import AlqError, ConfigurationError, UnsupportedTensor


def layers() -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
    """Yield layers of every kind that is emulated, and the shape of an input."""
    for kernel, stride, padding, dilation, bias in (
        *((3, 1, 1, 1, True), (3, 2, 1, 1, False), (1, 2, 0, 1, True), (5, 3, 0, 1, True), (3, 1, 0, 2, False)),
        *(((3, 2), (2, 1), (0, 2), (1, 1), True), (2, 3, 3, 1, False), (1, 1, 2, 1, False)),
    ):
        yield nn.Conv2d(3, 4, kernel, stride, padding, dilation, bias=bias), (2, 3, 11, 9)
    yield nn.Linear(6, 4), (5, 6)
    yield nn.Linear(6, 4, bias=False), (2, 3, 6)


def results(layer: nn.Module, inputs: torch.Tensor) -> list[torch.Tensor]:
    """Return outputs and all gradients of an arbitrary loss."""
    inputs = inputs.clone().requires_grad_()
    outputs = layer(inputs)
    layer.zero_grad()
    (outputs * torch.linspace(-1, 2, outputs.numel()).reshape(outputs.shape)).sum().backward()
    gradients = [parameter.grad for parameter in layer.parameters()]
    return [outputs.detach(), *(part.clone() for part in (inputs.grad, *gradients) if part is not None)]


def test_layers_with_wide_accumulators_are_those_of_torch() -> None:
    torch.manual_seed(0)
    for layer, shape in layers():
        inputs = torch.randn(shape)
        expected = results(layer, inputs)
        for adders in (Adders(), Adders(*[Adder(23, chunk=10**6)] * 3)):  # torch's product, and our own order of terms
            emulate_accumulators(nn.Sequential(layer), adders)
            found = results(layer, inputs)
            assert len(found) == len(expected)
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=f"{layer}")


def test_each_pass_adds_up_in_its_own_accumulator() -> None:
    """Against NumPy's loops on operands of 2 bits."""
    torch.manual_seed(1)
    layer, inputs = nn.Linear(40, 6, bias=False), torch.randn(50, 40)
    adders = Adders(Adder(4), Adder(5, chunk=2), Adder(3, "truncate"), operands=2)
    emulate_accumulators(nn.Sequential(layer), adders)
    outputs, below, of_weight = results(layer, inputs)
    above = torch.linspace(-1, 2, 300).reshape(50, 6)
    left, weight, top = (adders.rounded(each.detach()).numpy() for each in (inputs, layer.weight, above))
    assert np.array_equal(outputs.numpy(), emulated.matmul(left, weight.T, adders.forward))
    assert np.array_equal(below.numpy(), emulated.matmul(top, weight, adders.backward))
    assert np.array_equal(of_weight.numpy(), emulated.matmul(top.T, left, adders.gradient))


def network() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))


def test_layers_stay_what_they_are_and_can_go_back() -> None:
    model, inputs = network(), torch.randn(5, 1, 8, 8)
    expected, before = model(inputs), {name: id(value) for name, value in model.named_parameters()}
    calls: list[str] = []
    model[3].register_forward_hook(lambda *_: calls.append("hook"))
    assert list(emulate_accumulators(model, Adders(Adder(2)))) == ["0", "3"]
    assert not torch.allclose(model(inputs), expected, rtol=1e-3)
    assert {name: id(value) for name, value in model.named_parameters()} == before
    assert isinstance(model[0], nn.Conv2d)
    emulate_accumulators(model, Adders())
    torch.testing.assert_close(model(inputs), expected)
    assert calls == ["hook", "hook"]
    again = network()
    emulate_accumulators(again, {"3": Adders(Adder(2))})
    assert type(again[0]) is nn.Conv2d
    emulate_accumulators(again, Adders(), skip=["3"])
    assert again[3].adders == Adders(Adder(2))


def test_what_is_observed_is_what_is_added() -> None:
    left = torch.tensor([[1.0, 0, 2], [3, 4, 0]])
    right = torch.tensor([[1.0], [2], [0]])
    terms = left * right[:, 0]  # of the two sums
    expected = Sums(3, 3 / 6, float((terms.sum(1) ** 2).mean() / (3 * (terms**2).mean())))
    assert dataclasses.astuple(sums_of(left, right)) == pytest.approx(dataclasses.astuple(expected))
    assert sums_of(torch.ones(4, 64), torch.ones(64, 2)).growth == 64
    centred = sums_of(torch.randn(500, 64, generator=torch.Generator().manual_seed(0)), torch.ones(64, 20))
    assert centred.growth == pytest.approx(1, abs=0.2)
    assert sums_of(torch.zeros(2, 5), torch.ones(5, 2)) == Sums(5, 0.0, 1.0)


def test_a_model_is_observed_and_planned() -> None:
    model, inputs = network(), torch.randn(6, 1, 8, 8)
    observed = observe(model, lambda: nn.functional.cross_entropy(model(inputs), torch.arange(6) % 3))
    lengths = {name: {which: sums.length for which, sums in passes.items()} for name, passes in observed.items()}
    assert lengths == {"0": {"forward": 9, "gradient": 54}, "3": {"forward": 36, "backward": 3, "gradient": 6}}
    assert observed["3"]["forward"].nzr < 0.9  # behind a ReLU
    assert observed["0"]["forward"].nzr == 1
    dense = planned_adders(observed, sparse=False)
    assert dense["0"] == Adders(Adder(min_mantissa(5, 9)), gradient=Adder(min_mantissa(5, 54)), operands=2)
    assert planned_adders(observed, more=-9)["0"].forward == Adder(1)
    assert planned_adders(observed, chunk=8, mode="truncate")["0"].gradient.chunk == 8


def test_what_can_not_be_emulated_is_refused() -> None:
    cases: list[tuple[type[AlqError], str, Callable[[], object]]] = [
        (ConfigurationError, "expected a Conv2d or Linear", lambda: emulate_accumulators(nn.ReLU(), Adders())),
        (ConfigurationError, "skip: expected names of 0, 3, got '7'",
         lambda: emulate_accumulators(network(), Adders(), skip=["7"])),
        (ConfigurationError, "adders: expected names of 0, 3, got 'head'",
         lambda: emulate_accumulators(network(), {"head": Adders()})),
        (UnsupportedTensor, "0: expected a convolution of one group",
         lambda: emulate_accumulators(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), Adders())),
        (UnsupportedTensor, "padding_mode='reflect'",
         lambda: emulate_accumulators(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")), Adders())),
        (UnsupportedTensor, "padding='same'",
         lambda: emulate_accumulators(nn.Sequential(nn.Conv2d(4, 4, 3, padding="same")), Adders())),
        (UnsupportedTensor, "0: expected float32 weights, got torch.float64",
         lambda: emulate_accumulators(network().double(), Adders())),
        (ConfigurationError, "operands: expected an integer from 1 to 23, got 0", lambda: Adders(operands=0)),
    ]  # fmt: skip
    for kind, message, call in cases:
        with pytest.raises(kind) as caught:
            call()
        assert message in str(caught.value)


def summed(dtype: torch.dtype, passes: int, **options: Any) -> tuple[float, GradientAccumulator]:
    """Return what gradients of 1 add up to in two steps of ``passes`` backward passes, which must be alike."""
    weight = nn.Parameter(torch.zeros(3, dtype=dtype))
    accumulator = GradientAccumulator([weight], passes, **options)
    found = []
    for _ in range(2):
        weight.grad = None
        for _ in range(passes):
            weight.sum().backward()
        assert weight.grad is not None
        assert weight.grad.dtype == dtype
        found.append(float(weight.grad[0]))
    assert found[0] == found[1]
    return found[0], accumulator


def test_micro_batches_add_up_where_their_own_type_stalls() -> None:
    half, brain, single = torch.float16, torch.bfloat16, torch.float32
    for dtype, passes, accumulator, planned, expected in (
        *((brain, 64, "auto", "bf16", 64), (brain, 400, "auto", "fp32", 400), (brain, 400, "bf16", "bf16", 256)),
        *((half, 400, "auto", "fp16", 400), (half, 2200, "auto", "fp32", 2200), (half, 2200, "fp16", "fp16", 2048)),
        *((single, 400, "auto", "fp32", 400), (single, 400, "bf16", "bf16", 256), (single, 1, "auto", "fp32", 1)),
    ):
        total, helper = summed(dtype, passes, accumulator=accumulator)
        case = (dtype, passes, accumulator)
        assert total == expected, case
        assert [plan.dtype for plan in helper.plans.values()] == [planned], case


def test_hooks_can_be_removed() -> None:
    weight = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    helper = GradientAccumulator([weight], 500)
    helper.remove()
    for _ in range(3):
        weight.sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [3, 3, 3]


def test_forcing_a_narrow_buffer_warns(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="alq_hvd"):
        GradientAccumulator([nn.Parameter(torch.zeros(3))], 4096, accumulator="bf16")
    assert "gradients of 4096 passes are added up in bf16: bf16 would lose variance over 4096 terms" in caplog.text


def test_gradients_that_are_no_numbers_stay_none_and_other_types_are_left_alone() -> None:
    weight = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    GradientAccumulator([weight], 100)
    for number in range(100):
        (weight * torch.tensor([1.0, torch.nan if number == 50 else 1.0])).sum().backward()
    assert weight.grad is not None
    assert float(weight.grad[0]) == 100
    assert weight.grad[1].isnan()
    double = nn.Parameter(torch.ones(2, dtype=torch.float64))
    assert GradientAccumulator([double], 10**6).plans == {}


def test_buffers_refuse_what_makes_no_sense() -> None:
    weight = nn.Parameter(torch.zeros(3))
    cases: list[tuple[str, Callable[[], object]]] = [
        ("passes: expected an integer from 1", lambda: GradientAccumulator([weight], 0)),
        ("accumulator: expected one of auto, bf16, fp16, fp32", lambda: GradientAccumulator([weight], 4, "fp8")),
        ("parameters: expected some that need a gradient", lambda: GradientAccumulator([], 4)),
    ]
    for message, call in cases:
        with pytest.raises(ConfigurationError, match=message):
            call()
    table = nn.Embedding(5, 2, sparse=True).bfloat16()
    GradientAccumulator(table.parameters(), 1000)
    with pytest.raises(ConfigurationError, match="dense gradients"):
        table(torch.tensor([1])).sum().backward()
