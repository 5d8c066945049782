"""Run on four ranks of MPI: Horovod is started on two halves of them, apart, and each half trains and adapts.

Usage: parts_of_the_world.py RESULTS_DIRECTORY
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mpi4py import MPI  # isort: skip  # before Horovod: it is given a communicator of this
import horovod.torch as hvd
import torch

import alq_hvd

world = MPI.COMM_WORLD
half = world.Split(world.Get_rank() // 2, -world.Get_rank())  # and in another order than in the world
hvd.init(comm=half)
torch.manual_seed(0)
model = torch.nn.Linear(50, 50)
compression = alq_hvd.Compression.alq(
    bits=3, min_elements=100, schedule=[1], timeout=60.0, break_even=False, named_parameters=model.named_parameters()
)
optimizer = hvd.DistributedOptimizer(
    torch.optim.SGD(model.parameters(), lr=0.1), named_parameters=model.named_parameters(), compression=compression
)
for step in range(4):
    generator = torch.Generator().manual_seed(10 * step + world.Get_rank())
    optimizer.zero_grad()
    model(torch.randn(4, 50, generator=generator)).square().mean().backward()
    optimizer.step()
metrics = compression.metrics()
result = {
    "fits": [fit["accepted"] for fit in metrics["adaptations"]],
    "levels": metrics["levels"],
    "step": metrics["step"],
}
(Path(sys.argv[1]) / f"{world.Get_rank()}.json").write_text(json.dumps(result))
