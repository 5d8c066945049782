"""Quantised layers behave as a user of PyTorch expects, follow their optimizer, and refuse what they cannot do."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

import alq_hvd
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.errors import ConfigurationError, StateError, UnsupportedTensor, WeightsError, WeightsMismatch
from alq_hvd.weights import MetaGradient, QuantizedWeights, dequantized_state_dict, quantize_weights
from alq_hvd.weights.curvature import curvature
from alq_hvd.weights.schemes import NAMES, scheme


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 16, 20), nn.Tanh(), nn.Linear(20, 5),
    )  # fmt: skip


def batch(step: int, rank: int = 0, count: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randn(count, 1, 8, 8, generator=generator), torch.randint(0, 5, (count,), generator=generator)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> float:
    loss = torch.zeros(())
    for step in steps:
        images, labels = batch(step)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
    return loss.item()


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


def test_layers_compute_with_few_values_and_the_parameters_stay_what_they_were() -> None:
    model = network()
    held = set(map(id, model.parameters()))
    quantized = quantize_weights(model, "laq", bits=3)
    assert [layer.name for layer in quantized.layers] == ["3", "6"]
    assert set(map(id, model.parameters())) == held
    shapes = sorted(parameter.shape for parameter in model.parameters())
    assert shapes == sorted(parameter.shape for parameter in network().parameters())
    for layer in quantized.layers:
        assert torch.equal(layer.quantized, layer.modules[0].weight)
        assert 4 <= len(layer.quantized.unique()) <= 7
        assert "laq, 3 bits" in repr(layer.modules[0])


def test_every_scheme_trains_and_follows_its_optimizer() -> None:
    for name in NAMES:
        model = network()
        optimizer = adam(model)
        quantized = quantize_weights(model, name, skip=(), optimizer=optimizer)
        first = train(model, optimizer, range(1))
        for _ in range(15):  # the same batch over and over: the loss must fall
            last = train(model, optimizer, range(1))
        assert last < 0.9 * first, (name, first, last)
        assert quantized.steps == 16


def test_scales_are_the_best_for_the_optimizers_second_moment() -> None:
    optimizers = {
        "exp_avg_sq": lambda p: torch.optim.AdamW(p, lr=0.01),
        "square_avg": lambda p: torch.optim.RMSprop(p, lr=0.01),
        "own": lambda p: torch.optim.SGD(p, lr=0.1),
    }
    for key, make in optimizers.items():
        model = network()
        optimizer = make(model.parameters())
        quantized = quantize_weights(model, "laq", optimizer=optimizer, solve_every=1)
        own = torch.zeros_like(quantized.layers[1].weight)
        for step in range(4):
            train(model, optimizer, range(step, step + 1))
            own = 0.999 * own + 0.001 * quantized.layers[1].weight.grad ** 2
        layer = quantized.layers[1]
        moment = own if key == "own" else optimizer.state[layer.weight][key]
        best = scheme("laq", 3).solve(layer.weight.detach(), curvature(moment))
        torch.testing.assert_close(layer.parametrization.scales, best, msg=key)
        flat = scheme("laq", 3).solve(layer.weight.detach(), None)
        assert not torch.allclose(best, flat)


def test_warm_starts_end_near_the_best_scales_and_refresh_solves_anew() -> None:
    model = network()
    optimizer = adam(model)
    quantized = quantize_weights(model, "laq", bits=4, optimizer=optimizer, solve_every=1000)
    train(model, optimizer, range(50))
    warm = [layer.parametrization.scales.clone() for layer in quantized.layers]
    quantized.refresh()
    for layer, scales in zip(quantized.layers, warm, strict=True):
        bend = curvature(optimizer.state[layer.weight]["exp_avg_sq"])
        errors = [(bend * (layer.weight - layer.parametrization.scheme.quantise(layer.weight, each)) ** 2).sum()
                  for each in (scales, layer.parametrization.scales)]  # fmt: skip
        assert errors[1] <= errors[0] <= 1.02 * errors[1]


def test_state_dict_deepcopy_and_compile_behave_as_usual() -> None:
    model = network()
    optimizer = adam(model)
    quantize_weights(model, "laq", optimizer=optimizer)
    train(model, optimizer, range(3))
    images, _ = batch(9)
    expected = model.eval()(images)

    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = network(seed=1)
    quantize_weights(other, "laq")
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.eval()(images), expected)

    twin = copy.deepcopy(model)
    assert torch.equal(twin(images), expected)
    with torch.no_grad():
        twin[6].weight = torch.ones_like(twin[6].weight)  # assigning sets the full weight, and its scale with it
    torch.testing.assert_close(twin[6].weight, torch.ones_like(twin[6].weight))
    assert torch.equal(model(images), expected)

    compiled = torch.compile(model, backend="aot_eager")
    assert torch.equal(compiled(images), expected)
    gradients = []
    for each in (model, compiled):
        optimizer.zero_grad()
        each(images).square().mean().backward()
        gradients.append(model[3].parametrizations.weight.original.grad.clone())
    torch.testing.assert_close(*gradients)


def test_removing_leaves_plain_quantised_weights() -> None:
    for name in NAMES:
        model = network()
        model.append(nn.Linear(5, 5, bias=False))
        model.append(nn.Linear(5, 5, bias=False))
        model[10].weight = model[9].weight  # tied
        optimizer = adam(model)
        quantized = quantize_weights(model, name, skip=("first",), optimizer=optimizer)
        train(model, optimizer, range(2))
        images, _ = batch(9)
        expected, keys = model.eval()(images), set(network().state_dict())
        plain = network(seed=4)
        plain.append(nn.Linear(5, 5, bias=False))
        plain.append(nn.Linear(5, 5, bias=False))
        plain.load_state_dict(dequantized_state_dict(model))
        assert torch.equal(plain.eval()(images), expected), name
        quantized.remove()
        assert torch.equal(model(images), expected), name
        assert keys < set(model.state_dict())
        assert model[10].weight is model[9].weight
        train(model, optimizer, range(1))  # the optimizer is free again
        assert quantized.steps == 2


def test_a_training_goes_on_bit_for_bit() -> None:
    estimators: list[Any] = ["ste", MetaGradient("fcgrad"), MetaGradient("lstmfc", hidden=3)]
    for estimator in estimators:
        for name in ("laq", "lq_net") if estimator == "ste" else ("dorefa",):
            for make in (adam, lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)):
                whole = network()
                options = dict(scheme=name, estimator=estimator, solve_every=4)
                optimizer = make(whole)
                quantize_weights(whole, optimizer=optimizer, **options)
                train(whole, optimizer, range(9))

                cut = network()
                optimizer = make(cut)
                quantized = quantize_weights(cut, optimizer=optimizer, **options)
                train(cut, optimizer, range(5))
                file = io.BytesIO()
                torch.save([cut.state_dict(), optimizer.state_dict(), quantized.state_dict()], file)
                file.seek(0)

                resumed = network(seed=3)
                optimizer = make(resumed)
                quantized = quantize_weights(resumed, optimizer=optimizer, **options)
                for part, state in zip(
                    (resumed, optimizer, quantized), torch.load(file, weights_only=True), strict=True
                ):
                    part.load_state_dict(state)
                train(resumed, optimizer, range(5, 9))
                assert equal(whole, resumed), (estimator, name)


def test_states_of_other_options_are_refused() -> None:
    state = quantize_weights(network(), "laq", 3).state_dict()
    for other in (quantize_weights(network(), "laq", 4), quantize_weights(network(), "lab"),
                  quantize_weights(network(), "dorefa", estimator=MetaGradient("fcgrad"))):  # fmt: skip
        with pytest.raises(StateError, match="use the same options"):
            other.load_state_dict(state)
    meta = quantize_weights(network(), "dorefa", estimator=MetaGradient("fcgrad"))
    wider = quantize_weights(network(), "dorefa", estimator=MetaGradient("fcgrad", hidden=7))
    with pytest.raises(StateError, match="expected the parameters of"):
        wider.load_state_dict(meta.state_dict())


def averaged_training(
    ranks: LoopbackCommunicator, steps: int, disturb: int | None = None, **options: Any
) -> tuple[nn.Sequential, QuantizedWeights]:
    """Train on every rank's own data; gradients are averaged exactly, in rank order, before the step."""
    model = network_of_rank()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    quantized = quantize_weights(model, optimizer=optimizer, communicator=ranks, check_every=2, **options)
    for step in range(steps):
        images, labels = batch(step, ranks.rank)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        for name, parameter in model.named_parameters():
            payload = parameter.grad.numpy().reshape(-1).view("uint8")
            parts = [torch.from_numpy(raw.view("float32").copy()) for raw in ranks.allgather(payload, name).wait()]
            parameter.grad.copy_(torch.stack(parts).mean(0).view_as(parameter))
        if step == disturb and ranks.rank == 1:
            quantized.layers[1].weight.grad[0, 0] += 1e-3
        optimizer.step()
    return model, quantized


def network_of_rank() -> nn.Sequential:
    """Return the network without its norm, whose statistics would make ranks differ, the same in every thread."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(),
                          nn.Linear(6 * 16, 20), nn.Tanh(), nn.Linear(20, 5))  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def test_ranks_with_an_exact_wire_train_like_one_process_with_all_batches() -> None:
    for name in ("lab", "laq", "dorefa"):
        results = LoopbackWorld(3).run(lambda ranks, name=name: averaged_training(ranks, 6, scheme=name)[0])
        assert equal(results[0], results[1])
        assert equal(results[0], results[2])
        alone = network_of_rank()
        optimizer = torch.optim.Adam(alone.parameters(), lr=0.01)
        quantize_weights(alone, name, optimizer=optimizer)
        for step in range(6):
            images, labels = zip(*(batch(step, rank) for rank in range(3)), strict=True)
            optimizer.zero_grad()
            nn.functional.cross_entropy(alone(torch.cat(images)), torch.cat(labels)).backward()
            optimizer.step()
        for left, right in zip(alone.parameters(), results[0].parameters(), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4, msg=name)


def test_a_rank_that_has_come_apart_is_named() -> None:
    LoopbackWorld(3).run(lambda ranks: averaged_training(ranks, 4))
    with pytest.raises(WeightsMismatch, match=r"after step 2: rank 1 differs from the other ranks, first in 5"):
        LoopbackWorld(3).run(lambda ranks: averaged_training(ranks, 4, disturb=1))


def test_horovods_double_call_of_hooks_counts_one_step() -> None:
    """Horovod's optimizer extends the class of the user's: both classes' ``step`` call the hooks."""

    class Wrapped(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    model = network()
    torch.optim.SGD(model.parameters(), lr=0.1)  # its class' step calls hooks from the first instance on
    optimizer = Wrapped(model.parameters(), lr=0.1)
    quantized = quantize_weights(model, optimizer=optimizer)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    train(model, optimizer, range(3))
    assert len(calls) == 6
    assert quantized.steps == 3


def test_accumulated_gradients_and_half_precision() -> None:
    model = network()
    quantize_weights(model, "laq")
    images, labels = batch(0)
    nn.functional.cross_entropy(model(images), labels).backward()
    once = model[6].parametrizations.weight.original.grad.clone()
    nn.functional.cross_entropy(model(images), labels).backward()
    torch.testing.assert_close(model[6].parametrizations.weight.original.grad, 2 * once)

    model = network().to(torch.bfloat16)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    quantized = quantize_weights(model, "laq", optimizer=optimizer)
    nn.functional.cross_entropy(model(images.bfloat16()), labels).backward()
    optimizer.step()
    assert quantized.layers[0].quantized.dtype == torch.bfloat16
    assert quantized.layers[0].parametrization.scales.dtype == torch.float32


def test_clamping_is_for_one_bit_unless_asked_otherwise() -> None:
    for name, clamp, kept in (("lab", None, True), ("laq", None, False), ("laq", True, True), ("lab", False, False)):
        model = network()
        with torch.no_grad():
            model[6].weight.fill_(3)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        quantize_weights(model, name, optimizer=optimizer, clamp=clamp)
        train(model, optimizer, range(1))
        assert bool((model[6].parametrizations.weight.original <= 1).all()) is kept, (name, clamp)


def test_what_is_skipped_and_tied() -> None:
    assert [layer.name for layer in quantize_weights(network(), skip=()).layers] == ["0", "3", "6", "8"]
    assert [layer.name for layer in quantize_weights(network(), skip=("first", "[68]")).layers] == ["3"]
    model = network()
    model.append(nn.Linear(5, 20, bias=False))
    model.append(nn.Linear(20, 5, bias=False))
    model[10].weight = nn.Parameter(torch.randn(5, 20))
    model[8].weight = model[10].weight
    quantized = quantize_weights(model, skip=())
    assert [(layer.name, len(layer.modules)) for layer in quantized.layers][3:] == [("8", 2), ("9", 1)]
    assert torch.equal(model[8].weight, model[10].weight)
    model = network()
    model.append(nn.Linear(20, 5, bias=False))
    model[9].weight = model[8].weight
    assert [layer.name for layer in quantize_weights(model, skip=("last",)).layers] == ["0", "3", "6"]


def test_bad_weights_are_one_clear_error() -> None:
    cases: list[tuple[torch.Tensor, type[Exception], str]] = [
        (torch.full((4, 4), float("nan")), WeightsError, "0: 16 of 16 weights are NaN or infinite"),
        (torch.ones(4, 4).to_sparse(), UnsupportedTensor, "0: expected a dense weight, got layout torch.sparse_coo"),
        (torch.ones(4, 4, dtype=torch.int32), UnsupportedTensor, "0: expected floats, got torch.int32"),
        (torch.ones(0, 4), WeightsError, r"0: expected at least one weight, got shape \(0, 4\)"),
    ]
    for weight, kind, message in cases:
        model = nn.Sequential(nn.Linear(4, 4))
        model[0].weight = nn.Parameter(weight, requires_grad=False)
        with pytest.raises(kind, match=message):
            quantize_weights(model, skip=())
        assert model[0].weight is not None
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    quantize_weights(model, optimizer=optimizer)
    model[3].parametrizations.weight.original.grad = torch.full((6, 4, 3, 3), float("nan"))
    with pytest.raises(WeightsError, match="3: NaN or infinity in its weights or second moment after step 1"):
        optimizer.step()


def test_bad_options_are_one_clear_error() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        (dict(scheme="twn"), "scheme: expected one of lab, laq"),
        (dict(scheme="laq", bits=9), "laq is defined at 2 to 8 bits, got 9"),
        (dict(skip=("frist",)), "skip: expected 'first', 'last' or names of layers"),
        (dict(skip="first"), "expected a list of names, got the text 'first'"),
        (dict(skip=("*",)), "expected to leave at least one of 4 layers"),
        (dict(solve_every=0), "solve_every: expected an integer"),
        (dict(check_every=-1), "check_every: expected an integer"),
        (dict(estimator="sti"), "estimator: expected 'ste' or a MetaGradient, got 'sti'"),
        (dict(estimator=MetaGradient("fcgrad")), "MetaGradient is defined for dorefa and bwn, got laq"),
        (dict(scheme="bwn", estimator=MetaGradient("multifc")), "turns it round"),
    ]  # fmt: skip
    for options, message in cases:
        with pytest.raises(ConfigurationError, match=message):
            quantize_weights(network(), **options)
    for options, message in (
        (dict(kind="fc"), "kind: expected one of fcgrad"),
        (dict(kind="fcgrad", hidden=0), "hidden: expected an integer"),
        (dict(kind="fcgrad", layers=1), "layers: expected an integer"),
        (dict(kind="fcgrad", activation="relu"), "activation: expected None or 'tanh'"),
        (dict(kind="fcgrad", learning_rate=-1.0), "learning_rate: expected a positive number"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            MetaGradient(**options)
    with pytest.raises(ConfigurationError, match="expected a model with layers of Linear"):
        quantize_weights(nn.ReLU())
    model = network()
    quantized = quantize_weights(model)
    with pytest.raises(ConfigurationError, match="3: its weight is parametrised already"):
        quantize_weights(model)
    with pytest.raises(ConfigurationError, match="expected one that holds the weights of 3, 6, got one without"):
        quantized.attach(adam(network()))
    quantized.attach(adam(model))
    with pytest.raises(ConfigurationError, match="attach: expected one call"):
        quantized.attach(adam(model))


def test_the_package_hands_out_the_room() -> None:
    assert alq_hvd.weights.quantize_weights is quantize_weights
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        _ = alq_hvd.weights.quantise
