"""Train a small network on loopback ranks, with gradients on the host, on a GPU, or on a device that stands for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from alq_hvd.codec.choice import Codecs, Devices
from alq_hvd.communicator.base import Communicator
from alq_hvd.communicator.loopback import LoopbackCommunicator
from alq_hvd.engine.options import Options
from alq_hvd.frontends.horovod.compressor import QuantisedCompressor
from tests.support.stand_in import reduce_gradients

OPTIONS: dict[str, Any] = {
    "method": "alq",
    "bits": 3,
    "bucket_size": 64,
    "min_elements": 100,
    "fusion_elements": 1000,
}


def network(dtype: torch.dtype, device: str) -> torch.nn.Module:
    """Return a network with two weights to compress, in a fusion group each, and two biases too small for that."""
    layers = torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.Tanh(), torch.nn.Linear(40, 30))
    generator = torch.Generator().manual_seed(0)  # ranks are threads: the global one would deal its numbers out to all
    for parameter in layers.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return layers.to(device, dtype)


def compressor(
    ranks: Communicator, model: torch.nn.Module, devices: Devices | None, *, names: bool = True, **options: Any
) -> QuantisedCompressor:
    """Return a compressor whose gradients live on ``devices``, or on the host."""
    chosen = Options(**{**OPTIONS, "codec": "native" if devices is None else "cuda", **options})
    named = model.named_parameters() if names else None
    codecs = Codecs(chosen.codec, devices)
    return QuantisedCompressor(chosen, named, communicator=ranks, codecs=codecs)


def train(
    ranks: LoopbackCommunicator,
    model: torch.nn.Module,
    compression: QuantisedCompressor,
    steps: int = 4,
    *,
    set_to_none: bool = True,
) -> bytes:
    """Return the weights, as bytes, after ``steps`` steps of ``hvd.DistributedOptimizer``'s calling order."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    weight = next(model.parameters())
    for step in range(steps):
        generator = torch.Generator().manual_seed(1000 * step + ranks.rank)
        inputs, targets = (
            torch.randn(8, size, generator=generator).to(weight.device, weight.dtype) for size in (24, 30)
        )
        optimizer.zero_grad(set_to_none=set_to_none)
        torch.nn.functional.mse_loss(model(inputs), targets).backward()
        gradients = [(name, parameter.grad) for name, parameter in reversed(list(model.named_parameters()))]
        results = reduce_gradients(ranks, compression, gradients)  # type: ignore[arg-type]
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            assert results[name].dtype == weight.dtype
            parameter.grad.set_(results[name])  # type: ignore[call-overload]
        optimizer.step()
    return weights(model)


def weights(model: torch.nn.Module) -> bytes:
    return b"".join(parameter.detach().float().cpu().numpy().tobytes() for parameter in model.parameters())


def gradients_of(model: torch.nn.Module, value: Callable[[int], float]) -> list[tuple[str, torch.Tensor]]:
    """Fill the gradients of the weights, in order, with ``value`` of their number, and return them by name."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.dim() == 2]
    for index, (_, parameter) in enumerate(named):
        parameter.grad = torch.full_like(parameter, value(index))
    return [(name, parameter.grad) for name, parameter in named if parameter.grad is not None]
