"""Run on every rank under horovodrun: train with every exchange through stock Horovod, and write down what came out.

Usage: exchanges.py RESULTS_DIRECTORY
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import numpy as np
import torch

import alq_hvd
from alq_hvd.accumulation import GradientAccumulator
from alq_hvd.exchange import pieces


def train(compression: Any, parameters: list[tuple[str, torch.nn.Parameter]], model: torch.nn.Module) -> dict[str, Any]:
    """Take six steps and return the weights and what the compression counted."""
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.05), named_parameters=parameters, compression=compression
    )
    data = torch.Generator().manual_seed(hvd.rank())
    for _ in range(6):
        model.zero_grad()
        model(torch.randn(8, 40, generator=data)).square().mean().backward()
        optimizer.step()
    weights = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])
    return {
        "digest": hashlib.sha256(weights.tobytes()).hexdigest(),
        "weights": weights.tolist(),
        "metrics": compression.metrics() if hasattr(compression, "metrics") else None,
    }


def run(method: str | None = None, **options: Any) -> dict[str, Any]:
    """Train the same model from the same start with ``alq_hvd.Compression.<method>``, or with none of it."""
    torch.manual_seed(7)
    model = torch.nn.Sequential(torch.nn.Linear(40, 90), torch.nn.ReLU(), torch.nn.Linear(90, 33))
    named = list(model.named_parameters())
    if method is None:
        return train(hvd.Compression.none, named, model)
    settings = {"bucket_size": 64, "min_elements": 0, "fusion_elements": 3000, "schedule": [0, 3], **options}
    made = getattr(alq_hvd.Compression, method)(named_parameters=named, **settings)
    return train(made, named, model)


def of_micro_batches(passes: int) -> float:
    """Return a coordinate of the mean over ranks of ``passes`` equal bfloat16 gradients of 1, added up."""
    model = torch.nn.Linear(64, 32, bias=False).bfloat16()
    named = list(model.named_parameters())
    GradientAccumulator(model.parameters(), passes)
    compression = alq_hvd.Compression.qsgdinf(
        bits=8, bucket_size=1, exchange="allgather", named_parameters=named, name="micro_batches"
    )
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.0),
        named_parameters=named,
        compression=compression,
        backward_passes_per_step=passes,
    )
    for _ in range(passes):
        model(torch.ones(1, 64, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    return float(model.weight.grad[0, 0])


def main(results: Path) -> None:
    """Run every case and write this rank's results."""
    os.environ["HOROVOD_DYNAMIC_PROCESS_SETS"] = "1"
    hvd.init()
    outcome = {
        "fp32": run(),
        "exact": run("qsgdinf", exchange="two_shot", bucket_size=1),
        "two_shot": run("alq", exchange="two_shot", bits=(4, 8)),
        "more_ranks_than_buckets": run("qsgdinf", exchange="two_shot", bucket_size=4096, bits=8),
        "hierarchical": run("alq", exchange="hierarchical", ranks_per_node=2, bits=(4, 8)),
        "exact_hierarchical": run("qsgdinf", exchange="hierarchical", ranks_per_node=2, bucket_size=1, name="exact"),
        "one_node": run("qsgdinf", exchange="hierarchical", bits=8, name="one_node"),
        "break_even": run("alq", bits=4),
        "break_even_on_nodes": run("alq", bits=4, ranks_per_node=2, name="on_nodes"),
        "rotated": run("optimal", exchange="two_shot", bits=3, rotate=True),
        "eden": run("eden", exchange="hierarchical", ranks_per_node=2, bits=3, name="eden"),
        "allgather": run("alq", exchange="allgather", bits=4),
        "feedback": run("alq", exchange="two_shot", bits=(3, 4), error_feedback=True),
        "micro_batches": of_micro_batches(260),
    }
    pieces.LARGEST = 2000  # of all ranks together: what MPI counts is a million times as much
    outcome |= {
        "two_shot_in_pieces": run("alq", exchange="two_shot", bits=(4, 8), name="pieces"),
        "allgather_in_pieces": run("alq", exchange="allgather", bits=4, name="pieces"),
        "hierarchical_in_pieces": run("alq", exchange="hierarchical", ranks_per_node=2, bits=(4, 8), name="pieces"),
    }
    (results / f"{hvd.rank()}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
