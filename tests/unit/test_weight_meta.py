"""MetaQuant's steps are those of an independent computation in the published order, alone and over ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.weights import MetaGradient, quantize_weights, schemes
from alq_hvd.weights import meta_estimator as meta_estimator_module
from alq_hvd.weights.meta_nets import DenseNet

STEPS, ALPHA, GAMMA = 5, 0.05, 1e-2
Weights = list[torch.Tensor]


def initial() -> Weights:
    """Return the weights of a small net: 6 -> 5 -> 3, with one bias."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(5, 6), (3, 5), (3,)]
    return [0.6 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def data(step: int, rank: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 * step + rank)
    return torch.randn(8, 6, generator=generator, dtype=torch.float64), torch.randint(0, 3, (8,), generator=generator)


def loss_of(weights: Weights, step: int) -> torch.Tensor:
    inputs, labels = data(step)
    scores = functional.linear(functional.linear(inputs, weights[0]).tanh(), weights[1], weights[2])
    return functional.cross_entropy(scores, labels)


class Straight(torch.autograd.Function):
    """Round or take the sign; the gradient goes through where |x| <= 1."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor, kind: str) -> torch.Tensor:
        context.save_for_backward(values)
        return torch.floor(values + 0.5) if kind == "round" else torch.where(values < 0, -1.0, 1.0).double()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (values,) = context.saved_tensors
        return gradient * (values.abs() <= 1), None


def dorefa(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    latent = weight.tanh() / (2 * weight.tanh().abs().max().detach()) + 0.5
    return latent, 2 * Straight.apply(latent, "round") - 1


def bwn(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    latent = weight * 1.0
    return latent, latent.abs().mean().detach() * Straight.apply(latent, "sign")


class PlainNet:
    """The meta net layer by layer, never collapsed, from the parameters of ours."""

    def __init__(self, kind: str, ours: nn.Module) -> None:
        self.kind = kind
        self.phi = [parameter.detach().clone().requires_grad_() for parameter in ours.parameters()]

    def __call__(self, gradient: torch.Tensor, latent: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        if self.kind != "lstmfc":
            column = (gradient if self.kind == "fcgrad" else latent).reshape(-1, 1)
            for matrix in self.phi:
                column = column @ matrix.T
            made = column.view_as(gradient)
            return (made if self.kind == "fcgrad" else gradient * made), None
        from_input, from_hidden, bias1, bias2, linear, bias = self.phi
        hidden, cell = state or 2 * (gradient.new_zeros(gradient.numel(), linear.shape[1]),)
        gates = latent.reshape(-1, 1) @ from_input.T + bias1 + hidden @ from_hidden.T + bias2
        entry, forget, candidate, out = gates.chunk(4, dim=1)
        cell = forget.sigmoid() * cell + entry.sigmoid() * candidate.tanh()
        hidden = out.sigmoid() * cell.tanh()
        return gradient * (hidden @ linear.T + bias).view_as(gradient), (hidden.detach(), cell.detach())


def momentum() -> Callable[[int, torch.Tensor], torch.Tensor]:
    """Return SGD's direction for a unit step, with momentum 0.9."""
    buffers: dict[int, torch.Tensor] = {}

    def direction(place: int, gradient: torch.Tensor) -> torch.Tensor:
        buffers[place] = 0.9 * buffers[place] + gradient if place in buffers else gradient.clone()
        return buffers[place].clone()

    return direction


def adam() -> Callable[[int, torch.Tensor], torch.Tensor]:
    """Return Adam's direction for a unit step."""
    first: dict[int, Any] = {}
    second: dict[int, Any] = {}
    count: dict[int, int] = {}

    def direction(place: int, gradient: torch.Tensor) -> torch.Tensor:
        count[place] = count.get(place, 0) + 1
        first[place] = 0.9 * first.get(place, 0.0) + 0.1 * gradient
        second[place] = 0.999 * second.get(place, 0.0) + 0.001 * gradient**2
        corrected = second[place] / (1 - 0.999 ** count[place])
        return first[place] / (1 - 0.9 ** count[place]) / (corrected.sqrt() + 1e-8)

    return direction


def published(kind: str, forward: Any, pi: Any, ours: nn.Module) -> tuple[list[Weights], Weights]:
    """Return the weights at which each step's loss is taken, and phi at the end."""
    weights, net = initial(), PlainNet(kind, ours)
    phi_direction = adam()
    stored: list[Any] = [None, None]
    states: list[Any] = [None, None]
    seen: list[Weights] = []
    bias_gradient = None
    for step in range(STEPS):
        look = []
        for place in range(2):
            if stored[place] is None:
                look.append(weights[place].clone().requires_grad_())
                continue
            gradient, latent = stored[place]
            tanh = weights[place].tanh()
            calibration = (1 - tanh**2) / tanh.abs().max() if forward is dorefa else torch.ones_like(tanh)
            made, states[place] = net(gradient, latent, states[place])
            update = calibration * made
            refined = pi(place, update.detach())
            look.append(weights[place] - ALPHA * (update + (refined - update).detach()))
        if bias_gradient is not None:
            weights[2] = weights[2] - ALPHA * pi(2, bias_gradient)
        bias = weights[2].clone().requires_grad_()
        latents, quantised = zip(*(forward(each) for each in look), strict=True)
        for each in quantised:
            each.retain_grad()
        seen.append([*(each.detach().clone() for each in look), bias.detach().clone()])
        loss_of([*quantised, bias], step).backward()
        stored = [(q.grad.clone(), latent.detach().clone()) for q, latent in zip(quantised, latents, strict=True)]
        bias_gradient = bias.grad
        if step > 0:
            for place, parameter in enumerate(net.phi):
                with torch.no_grad():
                    parameter -= GAMMA * phi_direction(place, parameter.grad)
                parameter.grad = None
        weights = [*(each.detach() for each in look), weights[2]]
    return seen, net.phi


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 5, bias=False), nn.Linear(5, 3)
        self.double()
        with torch.no_grad():
            for parameter, value in zip((self.one.weight, self.two.weight, self.two.bias), initial(), strict=True):
                parameter.copy_(value)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(inputs).tanh())


def optimizer_of(name: str, model: nn.Module) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(model.parameters(), lr=ALPHA)
    return torch.optim.SGD(model.parameters(), lr=ALPHA, momentum=0.9)


def test_steps_equal_an_independent_computation_in_the_published_order() -> None:
    for kind in ("fcgrad", "multifc", "lstmfc"):
        for scheme, forward in (("dorefa", dorefa), ("bwn", bwn)):
            if (kind, scheme) == ("multifc", "bwn"):
                continue
            for base, pi in (("momentum", momentum), ("adam", adam)):
                model = Net()
                optimizer = optimizer_of(base, model)
                estimator = MetaGradient(kind, hidden=7, learning_rate=GAMMA)
                quantized = quantize_weights(model, scheme, skip=(), estimator=estimator, optimizer=optimizer)
                net = estimator.build(torch.float64, "cpu")
                seen, phi = published(kind, forward, pi(), net)
                for step in range(STEPS):
                    own = [*(layer.weight for layer in quantized.layers), model.two.bias]
                    for ours, theirs in zip(own, seen[step], strict=True):
                        torch.testing.assert_close(
                            ours.detach(), theirs, rtol=0, atol=1e-10, msg=f"{kind} {scheme} {base} {step}"
                        )
                    inputs, labels = data(step)
                    optimizer.zero_grad()
                    functional.cross_entropy(model(inputs), labels).backward()
                    optimizer.step()
                state = quantized.state_dict()["meta"]["net"]
                for ours, theirs in zip(state.values(), phi, strict=True):
                    torch.testing.assert_close(
                        ours, theirs.detach(), rtol=0, atol=1e-10, msg=f"{kind} {scheme} {base} phi"
                    )
                moved = max(
                    float((new - old.detach()).abs().max())
                    for new, old in zip(state.values(), net.parameters(), strict=True)
                )
                assert moved > GAMMA, "phi must have learned something, or nothing was compared"


def test_collapsed_nets_equal_the_layers_they_stand_for() -> None:
    values = torch.randn(50, dtype=torch.float64)
    for layers in (2, 3):
        net = MetaGradient("fcgrad", layers=layers).build(torch.float64, "cpu")
        assert sum(parameter.numel() for parameter in net.parameters()) == (200 if layers == 2 else 10_200)
        made, _ = net(values, values, None)
        column = values[:, None]
        for layer in net.layers:
            column = layer(column)
        torch.testing.assert_close(made, column[:, 0], rtol=1e-12, atol=1e-14)
        assert float((made / values).detach().min()) > 0, "begins by going down the gradient"
        parameters = list(net.parameters())
        collapsed = torch.autograd.grad(made.square().sum(), parameters)
        by_layers = torch.autograd.grad(column.square().sum(), parameters)
        for one, other in zip(collapsed, by_layers, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert sum(p.numel() for p in MetaGradient("lstmfc").build(torch.float32, "cpu").parameters()) == 41_301
    bent = MetaGradient("fcgrad", activation="tanh", bias=True).build(torch.float64, "cpu")
    assert isinstance(bent, DenseNet)
    made, _ = bent(values, values, None)
    assert float((made / values).detach().std()) > 1e-3, "with an activation it is no single factor"


def train_ranks(
    ranks: LoopbackCommunicator, estimator: MetaGradient, scheme: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    model = Net()
    optimizer = optimizer_of("momentum", model)
    quantized = quantize_weights(model, scheme, skip=(), estimator=estimator, optimizer=optimizer, communicator=ranks,
                                 check_every=1)  # fmt: skip
    for step in range(STEPS):
        inputs, labels = data(step, ranks.rank)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), labels).backward()
        for name, parameter in model.named_parameters():
            payload = parameter.grad.numpy().reshape(-1).view(np.uint8)
            parts = [raw.view(np.float64) for raw in ranks.allgather(payload, name).wait()]
            parameter.grad.copy_(torch.from_numpy(np.mean(parts, axis=0)).view_as(parameter))
        optimizer.step()
    return model.state_dict(), quantized.state_dict()["meta"]["net"]


@pytest.mark.parametrize("kind", ["fcgrad", "multifc", "lstmfc"])
def test_ranks_agree_on_weights_and_phi_and_equal_one_process_with_all_batches(kind: Any) -> None:
    estimator = MetaGradient(kind, hidden=5, learning_rate=GAMMA)
    results = LoopbackWorld(2).run(lambda ranks: train_ranks(ranks, estimator, "dorefa"))
    for part in range(2):
        for one, other in zip(results[0][part].values(), results[1][part].values(), strict=True):
            assert torch.equal(one, other)
    model = Net()
    optimizer = optimizer_of("momentum", model)
    quantized = quantize_weights(model, "dorefa", skip=(), estimator=estimator, optimizer=optimizer)
    for step in range(STEPS):
        inputs, labels = (torch.cat(parts) for parts in zip(data(step, 0), data(step, 1), strict=True))
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    for alone, together in (
        (model.state_dict(), results[0][0]),
        (quantized.state_dict()["meta"]["net"], results[0][1]),
    ):
        for one, other in zip(alone.values(), together.values(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_the_wire_carries_the_gradient_at_the_quantised_weights() -> None:
    model = Net()
    quantized = quantize_weights(model, "dorefa", skip=(), estimator=MetaGradient("fcgrad"))
    inputs, labels = data(0)
    functional.cross_entropy(model(inputs), labels).backward()
    plain = Net()
    for module, layer in zip((plain.one, plain.two), quantized.layers, strict=True):
        module.weight = nn.Parameter(layer.quantized)
    functional.cross_entropy(plain(inputs), labels).backward()
    for module, layer in zip((plain.one, plain.two), quantized.layers, strict=True):
        torch.testing.assert_close(layer.weight.grad, module.weight.grad, rtol=0, atol=1e-14)


def test_lstmfc_warns_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_estimator_module, "MANY_WEIGHTS", 40)
    with pytest.warns(UserWarning, match=r"lstmfc keeps 200 numbers for each of 45 weights"):
        quantize_weights(Net(), "dorefa", skip=(), estimator=MetaGradient("lstmfc"))
    quantize_weights(Net(), "dorefa", skip=(), estimator=MetaGradient("fcgrad"))  # keeps nothing


def test_calibrations_are_the_authors() -> None:
    weight = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    for name, factor in (("dorefa", 2.0), ("bwn", 1.0)):
        made: Any = schemes.scheme(name)
        (slope,) = torch.autograd.grad(made.latent(weight).sum(), weight)
        torch.testing.assert_close(made.calibration(weight.detach()), factor * slope, msg=name)
