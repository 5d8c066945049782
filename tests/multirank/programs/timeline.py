"""Run on every rank: train four layers in four fusion groups, under Horovod's timeline.

A large layer's backward pass takes so long that what was started before it has arrived. Here the ranks meet instead.

Usage: timeline.py RESULTS_DIRECTORY
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

results = Path(sys.argv[1])
os.environ["HOROVOD_TIMELINE"] = str(results / "timeline.json")  # read by hvd.init(), written by rank 0

import horovod.torch as hvd  # noqa: E402
import torch  # noqa: E402

import alq_hvd  # noqa: E402


class Meet(torch.autograd.Function):
    """Pass everything on; on the way back wait until Horovod has done all that was started before.

    Horovod's thread goes in cycles: the first message is in the cycle of all that was started before it, or in a later
    one, and the second one in a cycle after that.
    """

    @staticmethod
    def forward(context: Any, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.view_as(inputs)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        for name in ("meet", "meet again"):
            hvd.allreduce(torch.zeros(1), name=name)
        return gradient


hvd.init()
layers = torch.nn.ModuleList(torch.nn.Linear(50, 50, bias=False) for _ in range(4))
compression = alq_hvd.Compression.qsgdinf(
    4, 64, exchange="two_shot", fusion_elements=2500, named_parameters=layers.named_parameters()
)
optimizer = hvd.DistributedOptimizer(
    torch.optim.SGD(layers.parameters(), lr=0.1), named_parameters=layers.named_parameters(), compression=compression
)
for _ in range(3):  # in the first one, ranks agree on where gradients go; the end of the last one may not be written
    optimizer.zero_grad()
    hidden = torch.ones(4, 50)
    for layer in layers:
        hidden = layer(Meet.apply(hidden))
    hidden.square().mean().backward()
    optimizer.step()
rank = hvd.rank()
hvd.shutdown()  # completes the timeline
timeline = (results / "timeline.json").read_text() if rank == 0 else ""
(results / f"{rank}.json").write_text(json.dumps(timeline))
