"""Run on every rank: watch stock Horovod call a compressor.

Usage: contract.py RESULTS_DIRECTORY
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import torch
from horovod.torch.compression import Compressor

hvd.init()
torch.manual_seed(0)
model = torch.nn.ModuleDict({"used": torch.nn.Linear(4, 3), "unused": torch.nn.Linear(4, 3)})
parameters = dict(model.named_parameters())


class Watcher(Compressor):
    """Send a probe of two numbers, give back sevens."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.identical = self.contexts_match = True
        self.probe: list[float] = []
        self.unused_norm = -1.0

    def compress(self, tensor: Any) -> Any:
        self.calls.append("compress")
        owners = [name for name, parameter in parameters.items() if parameter.grad is tensor]
        self.identical &= len(owners) == 1
        if owners == ["unused.weight"]:
            self.unused_norm = float(tensor.norm())
        return torch.tensor([float(hvd.rank()), 3.0]), (owners[0], tensor.shape)

    def decompress(self, tensor: Any, ctx: Any) -> Any:
        self.calls.append("decompress")
        self.contexts_match &= parameters[ctx[0]].shape == ctx[1]
        self.probe = tensor.tolist()
        return torch.full(ctx[1], 7.0)


watcher = Watcher()
optimizer = hvd.DistributedOptimizer(
    torch.optim.SGD(model.parameters(), lr=0.0), named_parameters=model.named_parameters(), compression=watcher
)
calls = []
for _ in range(3):
    model.zero_grad()
    watcher.calls = []
    loss = model["used"](torch.ones(2, 4)).sum()
    if hvd.rank() == 0:
        loss = loss + model["unused"](torch.ones(2, 4)).sum()
    loss.backward()
    optimizer.step()
    calls.append(watcher.calls)
outcome = {
    "calls": calls,
    "identical": watcher.identical,
    "contexts_match": watcher.contexts_match,
    "probe": watcher.probe,
    "unused_norm": watcher.unused_norm,
    "replaced": all(
        bool((parameter.grad == 7).all()) for parameter in model.parameters() if parameter.grad is not None
    ),
}
(Path(sys.argv[1]) / f"{hvd.rank()}.json").write_text(json.dumps(outcome))
