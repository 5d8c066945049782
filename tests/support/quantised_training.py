"""A small net with quantised weights and its data: the same on real ranks and in one process."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from alq_hvd.weights import MetaGradient, QuantizedWeights, quantize_weights

STEPS = 6


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(),
                         nn.Linear(24, 5))  # fmt: skip


def batch(step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randn(16, 12, generator=generator), torch.randint(0, 5, (16,), generator=generator)


def quantise(model: nn.Module, case: str, optimizer: Any) -> QuantizedWeights:
    """Quantise by ``laq`` at 3 bits, or by ``dorefa`` at 1 bit with the net of MetaQuant that ``case`` names."""
    if case == "laq":
        return quantize_weights(model, "laq", 3, optimizer=optimizer, check_every=2)
    estimator: Any = MetaGradient(case, hidden=5)  # type: ignore[arg-type]
    return quantize_weights(model, "dorefa", 1, estimator=estimator, optimizer=optimizer, check_every=2)
