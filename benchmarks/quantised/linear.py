"""The linear model of Hou et al.: how high the floor is, and how fast one gets there."""

from __future__ import annotations

from typing import Any

import torch
from quantised.wire import Wire

from alq_hvd.weights.curvature import curvature
from alq_hvd.weights.schemes import Scheme, scheme

BATCH, NOISE, RATE, BETA = 64, 0.2, 0.03, 0.999
CASES: tuple[tuple[str | None, Wire], ...] = (
    (None, Wire()),
    ("lab", Wire()),
    ("lab", Wire(2)),
    ("lab", Wire(2, 3)),
    ("lab", Wire(2, 1)),
    ("laq", Wire(3)),
)


def run(name: str | None, wire: Wire, dimension: int, steps: int, seed: int) -> dict[str, Any]:
    """Train one linear model; return the mean loss of the first tenth and of the last fifth of the steps."""
    data = torch.Generator().manual_seed(seed)
    draws = torch.Generator().manual_seed(1000 + seed)
    target = torch.rand(dimension, generator=data) - 0.5
    made: Scheme | None = None if name is None else scheme(name)
    weights, moment = torch.zeros(dimension), torch.zeros(dimension)
    losses = torch.zeros(steps)
    for step in range(1, steps + 1):
        inputs = torch.rand(BATCH, dimension, generator=data) - 0.5
        labels = inputs @ target + NOISE * torch.randn(BATCH, generator=data)
        quantised = weights
        if made is not None:
            quantised = made.quantise(weights, made.solve(weights, curvature(moment)))
        off = inputs @ quantised - labels
        losses[step - 1] = off.square().mean() / 2
        gradient = wire.send(inputs.T @ off / BATCH, draws)
        moment = BETA * moment + (1 - BETA) * gradient.square()
        corrected = moment / (1 - BETA**step)
        weights = weights - RATE / step**0.5 * gradient / (corrected.sqrt() + 1e-8)
    return {
        "weights": name or "FP", "wire": wire.label, "dimension": dimension, "seed": seed,
        "first": float(losses[: steps // 10].mean()), "last": float(losses[-steps // 5 :].mean()),
    }  # fmt: skip
