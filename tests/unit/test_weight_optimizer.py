"""The optimizer that hands out quantised weights does what the parametrised model does, and has the states of both."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

from alq_hvd.errors import ConfigurationError, StateError, UnsupportedTensor
from alq_hvd.weights import QuantizedOptimizer, quantize_weights
from alq_hvd.weights.schemes import NAMES
from tests.unit.test_weight_model import batch, network, train


def groups(model: nn.Sequential, **options: Any) -> list[dict[str, Any]]:
    """Ask for quantisation of the two inner layers."""
    inner = [model[3].weight, model[6].weight]
    others = [parameter for parameter in model.parameters() if all(parameter is not each for each in inner)]
    return [{"params": inner, **options}, {"params": others}]


def test_it_trains_bit_for_bit_like_the_parametrised_model() -> None:
    for name in NAMES:
        for make in (torch.optim.Adam, torch.optim.SGD):
            model, twin = network(), network()
            base = make(groups(model, quant_bits={"lab": 1, "bwn": 1, "dorefa": 1, "laq": 4}.get(name, 2)), lr=0.05)
            optimizer = QuantizedOptimizer(base, name, solve_every=3)
            other = make(groups(twin), lr=0.05)
            quantize_weights(twin, name, bits=optimizer._tensors[0].scheme.bits, optimizer=other, solve_every=3)
            for step in range(5):
                train(model, optimizer, range(step, step + 1))
                train(twin, other, range(step, step + 1))
                assert torch.equal(model[6].weight, twin[6].weight), (name, make.__name__, step)
            assert torch.equal(model(batch(9)[0]), twin(batch(9)[0]))
            optimizer.restore_full_weights()
            assert torch.equal(model[3].weight, twin[3].parametrizations.weight.original)


def test_groups_have_widths_and_schemes_of_their_own() -> None:
    model = network()
    base = torch.optim.Adam(
        [
            {"params": [model[3].weight], "quant_bits": 4},
            {"params": [model[6].weight], "quant_bits": 1, "quant_scheme": "lab"},
            {"params": [model[0].weight, model[8].weight]},
        ],
        lr=0.01,
    )
    optimizer = QuantizedOptimizer(base)
    train(model, optimizer, range(3))
    assert 8 <= len(model[3].weight.unique()) <= 15
    assert len(model[6].weight.unique()) == 2
    assert len(model[8].weight.unique()) == 100


def test_schedules_closures_and_states_work() -> None:
    model = network()
    optimizer = QuantizedOptimizer(torch.optim.SGD(groups(model, quant_bits=3), lr=0.1, momentum=0.9), solve_every=2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    images, labels = batch(0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    assert optimizer.step(closure).item() > 0
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    train(model, optimizer, range(1, 5))

    resumed = network(seed=2)
    fresh = QuantizedOptimizer(torch.optim.SGD(groups(resumed, quant_bits=3), lr=0.1, momentum=0.9), solve_every=2)
    resumed.load_state_dict(saved[0])
    fresh.load_state_dict(saved[1])
    train(resumed, fresh, range(1, 5))
    for left, right in zip(model.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(left, right)
    wider = network()
    other = QuantizedOptimizer(torch.optim.SGD(groups(wider, quant_bits=4), lr=0.1))
    with pytest.raises(StateError, match="use the same groups"):
        other.load_state_dict(saved[1])


def test_bad_groups_are_one_clear_error() -> None:
    model = network()
    integers = nn.Parameter(torch.ones(3, 3, dtype=torch.int8), requires_grad=False)
    cases: list[tuple[list[dict[str, Any]], type[Exception], str]] = [
        (groups(model), ConfigurationError, "expected at least one with quant_bits, got none"),
        (groups(model, quant_bits=9), ConfigurationError, "laq is defined at 2 to 8 bits, got 9"),
        (groups(model, quant_bits=3, quant_scheme="twn"), ConfigurationError, "scheme: expected one of lab"),
        ([{"params": [model[0].bias], "quant_bits": 3}], ConfigurationError, "group 0, parameter 0: expected a weight"),
        ([{"params": [integers], "quant_bits": 3}], UnsupportedTensor, "expected floats, got torch.int8"),
    ]
    for made, kind, message in cases:
        with pytest.raises(kind, match=message):
            QuantizedOptimizer(torch.optim.SGD(made, lr=0.1))
    optimizer = QuantizedOptimizer(torch.optim.SGD(groups(model, quant_bits=3), lr=0.1))
    with pytest.raises(ConfigurationError, match="wrap it again"):
        optimizer.add_param_group({"params": []})
