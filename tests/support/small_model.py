"""A small model, its gradients, and compressors for it on loopback ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import alq_hvd
from alq_hvd.communicator.loopback import LoopbackCommunicator
from tests.support.stand_in import average

SHAPES = {"conv": (16, 3, 7, 7), "bias": (16,), "linear": (130, 40), "head": (40, 33)}


def model() -> dict[str, torch.nn.Parameter]:
    return {name: torch.nn.Parameter(torch.zeros(shape)) for name, shape in SHAPES.items()}


def backward(parameters: dict[str, torch.nn.Parameter], rank: int, step: int, dtype: Any = torch.float32) -> None:
    generator = torch.Generator().manual_seed(1000 * step + rank)
    for parameter in parameters.values():
        parameter.grad = None
        parameter.data = parameter.data.to(dtype)
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(dtype)


def named_gradients(parameters: dict[str, torch.nn.Parameter]) -> list[tuple[str, Any]]:
    return [(name, parameter.grad) for name, parameter in parameters.items()]


def compressor(ranks: LoopbackCommunicator, parameters: dict[str, torch.nn.Parameter] | None, **options: Any) -> Any:
    method = options.pop("method", "alq")
    options = {"bits": 3, "bucket_size": 64, "min_elements": 100, "fusion_elements": 4000, **options}
    named = parameters.items() if parameters is not None else None
    return getattr(alq_hvd.Compression, method)(named_parameters=named, communicator=ranks, **options)


def exact(step: int, size: int, reduce: Any = average) -> dict[str, np.ndarray]:
    """Return what stock Horovod would return."""
    parameters = model()
    gradients: dict[str, list[np.ndarray]] = {name: [] for name in SHAPES}
    for rank in range(size):
        backward(parameters, rank, step)
        for name, gradient in named_gradients(parameters):
            gradients[name].append(gradient.numpy())
    return {name: reduce(parts) for name, parts in gradients.items()}
