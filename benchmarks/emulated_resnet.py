"""The demo's ResNet-8 on small images, on one rank, with any activation: what narrow accumulators are tried on."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from images.data import load_images
from images.model import ResNet8

Images = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Inputs and labels to train with, inputs and labels to test with."""


def loss_of(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the training loss of a batch."""
    return functional.cross_entropy(model(inputs), labels)


def small_images(train: int, test: int) -> Images:
    """Return Fashion-MNIST at half its side."""
    images = load_images(train=train, test=test)
    inputs, test_inputs = (functional.avg_pool2d(each, 2) for each in (images.train_images, images.test_images))
    return inputs, images.train_labels, test_inputs, images.test_labels


def resnet(activation: Callable[[torch.Tensor], torch.Tensor], seed: int) -> nn.Module:
    """Return the demo's network, with another activation than ReLU where asked."""
    torch.manual_seed(seed)
    model = ResNet8()
    if activation is not functional.relu:
        model.stem[2] = _Activation(activation)
        for block in model.stages:
            block.forward = _block_forward(block, activation)
    return model


class _Activation(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.function(inputs)


def _block_forward(block: Any, activation: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], Any]:
    def forward(images: torch.Tensor) -> torch.Tensor:
        inside = block.norm2(block.convolution2(activation(block.norm1(block.convolution1(images)))))
        return activation(inside + block.shortcut(images))

    return forward


def train(model: nn.Module, images: Images, epochs: int, seed: int, batch: int = 64) -> float:
    """Train as the demo does, on one rank; return the mean loss of the last 20 steps."""
    steps = epochs * (len(images[1]) // batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    losses = []
    model.train()
    for epoch in range(epochs):
        order = np.random.default_rng((seed, epoch)).permutation(len(images[1]))
        for start in range(0, len(order) - batch + 1, batch):
            rows = torch.from_numpy(order[start : start + batch])
            optimizer.zero_grad()
            loss = loss_of(model, images[0][rows], images[1][rows])
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
    return statistics.mean(losses[-20:])


@torch.no_grad()
def accuracy(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of test images that are recognised, with the accumulators of training."""
    model.eval()
    found = torch.cat([model(part).argmax(1) for part in inputs.split(250)])
    return float((found == labels).float().mean())
