"""Run on four ranks: two process sets train apart from each other, each with its own compression.

Usage: process_sets.py RESULTS_DIRECTORY
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import horovod.torch as hvd
import torch

import alq_hvd

even, odd = hvd.ProcessSet([0, 2]), hvd.ProcessSet([1, 3])
hvd.init(process_sets=[even, odd])
rank = hvd.rank()
mine = odd if rank % 2 else even
torch.manual_seed(rank % 2)
model = torch.nn.Sequential(torch.nn.Linear(30, 60), torch.nn.ReLU(), torch.nn.Linear(60, 20))
compression = alq_hvd.Compression.alq(
    named_parameters=model.named_parameters(),
    process_set=mine,
    min_elements=100,
    bucket_size=64,
    schedule=[0, 2],
    break_even=False,
)
optimizer = hvd.DistributedOptimizer(
    torch.optim.SGD(model.parameters(), lr=0.1),
    named_parameters=model.named_parameters(),
    compression=compression,
    process_set=mine,
)
generator = torch.Generator().manual_seed(rank)
for _ in range(5):
    model.zero_grad()
    model(torch.randn(8, 30, generator=generator)).square().mean().backward()
    optimizer.step()
weights = b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters())
outcome = {"digest": hashlib.sha256(weights).hexdigest(), "metrics": compression.metrics()}
(Path(sys.argv[1]) / f"{rank}.json").write_text(json.dumps(outcome))
hvd.barrier()  # Horovod shuts down for all when one rank exits, though the other set may not be done
