"""Run on every rank: do things wrong, one after another; all but the last print their error, that one ends the program.

Usage: failures.py RESULTS_DIRECTORY WHAT[,WHAT...]
"""

from __future__ import annotations

import copy
import os
import signal
import sys
import traceback
from typing import Any

import horovod.torch as hvd
import torch

import alq_hvd


def go_wrong(what: str) -> None:
    """Take four steps, of which one is the last; parameters bear the name of the case."""
    rank = hvd.rank()
    torch.manual_seed(0)
    layer = torch.nn.Linear(50, 50)
    options: dict[str, Any] = {"min_elements": 100, "timeout": 30.0, "break_even": False, "name": what}
    if what == "bits":
        options["bits"] = 4 if rank == 1 else 3
    if what == "excluded" and rank == 0:
        options["process_set"] = others
    if what == "dies_between_shots":
        options["exchange"] = "two_shot"
    layers = [torch.nn.Linear(50, 50) for _ in range(3)] if what == "call_order" else [layer]
    model = torch.nn.ModuleDict({what: torch.nn.Sequential(*layers)})
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
        order = list(model[what])
        if what == "call_order" and step == 2 and rank == 1:
            order.reverse()
        if what == "dies" and step == 2 and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        sum(layer(torch.ones(2, 50)).square().mean() for layer in order).backward()
        if what == "dies_between_shots" and step == 2 and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        optimizer.step()


*told, last = sys.argv[2].split(",")
others, pairs = hvd.ProcessSet([1]), [hvd.ProcessSet([0, 1]), hvd.ProcessSet([2, 3])]
hvd.init(process_sets=[*pairs, others] if "other_process_set" in told else [others])
for case in told:
    try:
        go_wrong(case)
    except Exception:
        print(f"{case}: {traceback.format_exc()}", flush=True)
go_wrong(last)
