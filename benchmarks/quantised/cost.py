"""What a step costs with each scheme: processor time of ResNet-8's step, so that a busy machine does not count."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from alq_hvd.weights import quantize_weights

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from images.model import ResNet8

CASES: tuple[tuple[str, int, int], ...] = (
    ("bwn", 1, 100), ("lab", 1, 100), ("laq", 2, 100), ("laq", 3, 100), ("laq", 4, 100), ("laq", 8, 100),
    ("laq", 3, 1), ("lat2", 2, 100), ("laq_log", 3, 100), ("dorefa", 1, 100), ("lq_net", 2, 100),
)  # fmt: skip
"""Scheme, bits, ``solve_every``."""


def run(case: tuple[str, int, int] | None, batch: int, steps: int) -> dict[str, Any]:
    """Return median processor milliseconds: of a step, of the optimizer with what follows it, and of reading all q."""
    torch.manual_seed(0)
    model = ResNet8()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    quantized = None
    if case is not None:
        scheme, bits, solve_every = case
        quantized = quantize_weights(model, scheme, bits, optimizer=optimizer, solve_every=solve_every)
    images, labels = torch.randn(batch, 1, 28, 28), torch.randint(0, 10, (batch,))
    whole, updates, reads = [], [], []
    for _ in range(steps):
        start = time.process_time()
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        middle = time.process_time()
        optimizer.step()
        end = time.process_time()
        for layer in quantized.layers if quantized is not None else ():
            _ = layer.modules[0].weight
        reads.append(time.process_time() - end)
        whole.append(end - start)
        updates.append(end - middle)
    name = "FP" if case is None else f"{case[0]} {case[1]}" + (", solved anew at each step" if case[2] == 1 else "")
    medians = [1e3 * statistics.median(each[2:]) for each in (whole, updates, reads)]
    return {"case": name, "batch": batch, "step_ms": medians[0], "optimizer_ms": medians[1], "read_ms": medians[2]}
