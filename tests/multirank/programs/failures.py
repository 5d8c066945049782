"""Run on every rank: do one thing wrong, and let the error reach the user.

Usage: failures.py RESULTS_DIRECTORY WHAT
"""

from __future__ import annotations

import copy
import os
import signal
import sys
from typing import Any

import horovod.torch as hvd
import torch

import alq_hvd

others, pairs = hvd.ProcessSet([1]), [hvd.ProcessSet([0, 1]), hvd.ProcessSet([2, 3])]
hvd.init(process_sets=pairs if sys.argv[2] == "other_process_set" else [others])
what, rank = sys.argv[2], hvd.rank()
torch.manual_seed(0)
model = torch.nn.Linear(50, 50)
options: dict[str, Any] = {"min_elements": 100, "timeout": 30.0, "break_even": False}
if what == "bits":
    options["bits"] = 4 if rank == 1 else 3
if what == "excluded" and rank == 0:
    options["process_set"] = others
if what == "dies_between_shots":
    options["exchange"] = "two_shot"
if what == "call_order":
    model = torch.nn.Sequential(*[torch.nn.Linear(50, 50) for _ in range(3)])
named = None if what == "call_order" else model.named_parameters()
compression: Any = alq_hvd.Compression.alq(named_parameters=named, **options)
if what == "not_compressed" and rank == 1:
    compression = hvd.Compression.none
if what == "not_called":
    compression = alq_hvd.Compression.alq
if what == "copied":
    model = copy.deepcopy(model)
optimizer = hvd.DistributedOptimizer(
    torch.optim.SGD(model.parameters(), lr=0.1),
    named_parameters=model.named_parameters(),
    compression=compression,
    op=hvd.Adasum if what == "adasum" else hvd.Average,
    **({"process_set": pairs[rank // 2]} if what == "other_process_set" else {}),
)
for step in range(4):
    model.zero_grad()
    layers = list(model) if what == "call_order" else [model]
    if what == "call_order" and step == 2 and rank == 1:
        layers.reverse()
    if what == "dies" and step == 2 and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    sum(layer(torch.ones(2, 50)).square().mean() for layer in layers).backward()
    if what == "dies_between_shots" and step == 2 and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    optimizer.step()
