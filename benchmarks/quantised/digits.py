"""Two small networks on scikit-learn's 8x8 digits: weight bits by gradient bits, and MetaQuant beside plain STE."""

from __future__ import annotations

import copy
from typing import Any

import torch
from quantised.wire import Wire
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from alq_hvd.weights import MetaGradient, quantize_weights

TRAINING, RANKS = 1400, 2
WEIGHTS: dict[str, tuple[str, int] | None] = {
    "FP": None, "1 bit": ("lab", 1), "2 bits": ("laq", 2), "3 bits": ("laq", 3),
}  # fmt: skip
WIRES = (Wire(), Wire(2), Wire(2, 3), Wire(3), Wire(4))


class Digits:
    """Hold the images, scaled to unit variance, and their labels: 1400 to train on, 397 to test."""

    def __init__(self) -> None:
        pixels, labels = load_digits(return_X_y=True)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        images = torch.from_numpy((pixels - pixels.mean()) / pixels.std()).float()[order]
        truth = torch.from_numpy(labels)[order].long()
        self.train, self.test = (images[:TRAINING], truth[:TRAINING]), (images[TRAINING:], truth[TRAINING:])

    def batches(self, size: int, seed: int, epoch: int) -> Any:
        order = torch.randperm(TRAINING, generator=torch.Generator().manual_seed(1000 * seed + epoch))
        for rows in order[: TRAINING // size * size].split(size):
            yield self.train[0][rows], self.train[1][rows]

    def accuracy(self, model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            right = (model(self.test[0]).argmax(1) == self.test[1]).float().mean()
        model.train()
        return float(right)


def mlp() -> nn.Sequential:
    """Return 64-128-128-10 with batch norm, 26 240 weights."""
    return nn.Sequential(
        nn.Linear(64, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU(),
        nn.Linear(128, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU(),
        nn.Linear(128, 10, bias=False), nn.BatchNorm1d(10),
    )  # fmt: skip


def convolutional() -> nn.Sequential:
    """Return two 3x3 convolutions and a linear layer with batch norm, 7 632 weights."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(),
        nn.Linear(256, 20, bias=False), nn.BatchNorm1d(20), nn.ReLU(),
        nn.Linear(20, 10, bias=False), nn.BatchNorm1d(10),
    )  # fmt: skip


ARCHITECTURES = {"mlp": mlp, "convolutional": convolutional}


def made_from(seed: int, architecture: str) -> nn.Sequential:
    torch.manual_seed(seed)
    return ARCHITECTURES[architecture]()


def over_the_wire(
    digits: Digits, architecture: str, weights: str, wire: Wire, seed: int, epochs: int
) -> dict[str, Any]:
    """Train from scratch on two simulated ranks, 32 images each, Adam 1e-3; every layer quantised."""
    model = made_from(seed, architecture)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2 * epochs // 3, 13 * epochs // 15], 0.1)
    chosen = WEIGHTS[weights]
    if chosen is not None:
        quantize_weights(model, *chosen, skip=(), optimizer=optimizer, clamp=False)
    draws = torch.Generator().manual_seed(seed)
    parameters = list(model.parameters())
    losses = []
    for epoch in range(epochs):
        total, count = 0.0, 0
        for images, labels in digits.batches(32 * RANKS, seed, epoch):
            means = [torch.zeros_like(parameter) for parameter in parameters]
            for own, truth in zip(images.chunk(RANKS), labels.chunk(RANKS), strict=True):
                loss = functional.cross_entropy(model(own), truth)
                gradients = torch.autograd.grad(loss, parameters)
                for mean, gradient in zip(means, gradients, strict=True):
                    mean += wire.send(gradient, draws) / RANKS
                total, count = total + loss.item(), count + 1
            for parameter, mean in zip(parameters, means, strict=True):
                parameter.grad = mean
            optimizer.step()
        schedule.step()
        losses.append(total / count)
    return {
        "architecture": architecture, "weights": weights, "wire": wire.label, "seed": seed, "epochs": epochs,
        "early_loss": losses[min(2, epochs - 1)], "last_loss": losses[-1], "accuracy": digits.accuracy(model),
    }  # fmt: skip


META: tuple[tuple[str, str, str, float], ...] = tuple(
    (scheme, estimator, optimizer, rate)
    for scheme in ("dorefa", "bwn")
    for estimator, optimizer, rate in (
        ("ste", "SGD", 1e-3), ("fcgrad", "SGD", 1e-3), ("multifc", "SGD", 1e-3), ("lstmfc", "SGD", 1e-3),
        ("ste", "SGD", 0.1), ("ste", "SGD", 1.0), ("ste", "Adam", 1e-3), ("fcgrad", "Adam", 1e-3),
    )
    if (scheme, estimator) != ("bwn", "multifc")
)  # fmt: skip
"""Scheme, estimator, optimizer and learning rate; the larger rates are STE's, tuned."""


def pretrained(digits: Digits, seed: int, epochs: int) -> nn.Sequential:
    """Return the MLP after a training in full precision."""
    model = made_from(seed, "mlp")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(epochs):
        for images, labels in digits.batches(64, seed, epoch):
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model


def meta(
    digits: Digits, start: nn.Sequential, case: tuple[str, str, str, float], seed: int, epochs: int
) -> dict[str, Any]:
    """Go on from ``start`` with one bit in every layer, one rank, batches of 64."""
    scheme, estimator, name, rate = case
    model = copy.deepcopy(start)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=rate)
    learned: Any = "ste" if estimator == "ste" else MetaGradient(estimator, hidden=20 if estimator == "lstmfc" else 100)
    quantize_weights(model, scheme, 1, skip=(), estimator=learned, optimizer=optimizer)
    for epoch in range(epochs):
        for images, labels in digits.batches(64, seed, 100 + epoch):
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return {
        "scheme": scheme, "estimator": estimator, "optimizer": name, "rate": rate, "seed": seed, "epochs": epochs,
        "accuracy": digits.accuracy(model), "start": digits.accuracy(start),
    }  # fmt: skip
