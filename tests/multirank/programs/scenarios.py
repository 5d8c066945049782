"""Run on every rank under horovodrun: train small models through stock Horovod, and write down what came out.

Usage: scenarios.py RESULTS_DIRECTORY
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import numpy as np
import torch

import alq_hvd
from alq_hvd.communicator import mpi
from alq_hvd.communicator.base import Communicator, allgather_bytes
from alq_hvd.communicator.horovod import HorovodCommunicator


class Branches(torch.nn.Module):
    """Add up branches in an order of the caller's choice, so that hooks fire in that order too."""

    def __init__(self, branches: int = 5, width: int = 61) -> None:
        super().__init__()
        self.branches = torch.nn.ModuleList(torch.nn.Linear(17, width + index) for index in range(branches))
        self.unused_at_times = torch.nn.Linear(17, 1)

    def forward(self, inputs: torch.Tensor, order: list[int], use_all: bool) -> torch.Tensor:
        total = inputs.new_zeros(())
        for index in order:
            total = total + self.branches[index](inputs).square().mean() / (index + 1)
        return total + (self.unused_at_times(inputs).square().mean() if use_all else 0)


def train(
    *,
    compression: Callable[[Any], Any],
    steps: int = 6,
    shuffle: bool = False,
    unused_on_odd_ranks: bool = False,
    passes: int = 1,
    seed: int = 0,
    least: int = 0,
    **optimizer_options: Any,
) -> dict[str, Any]:
    """Train ``Branches`` from the same start on every rank, on its own data; freeze what is smaller than ``least``."""
    torch.manual_seed(7)
    model = Branches()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.numel() >= least)
    made = compression(model)
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        named_parameters=model.named_parameters(),
        compression=made,
        backward_passes_per_step=passes,
        **optimizer_options,
    )
    data = torch.Generator().manual_seed(100 * seed + hvd.rank())
    shuffler = random.Random(hvd.rank())
    losses = []
    for _ in range(steps):
        model.zero_grad()
        for _ in range(passes):
            order = list(range(5))
            if shuffle:
                shuffler.shuffle(order)
            use_all = not (unused_on_odd_ranks and hvd.rank() % 2)
            loss = model(torch.randn(8, 17, generator=data), order, use_all)
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
    weights = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])
    return {
        "digest": hashlib.sha256(weights.tobytes()).hexdigest(),
        "weights": weights.tolist(),
        "losses": losses,
        "metrics": made.metrics() if hasattr(made, "metrics") else None,
    }


def named(method: str = "alq", **options: Any) -> Callable[[Any], Any]:
    """Return a maker of compressions that know the parameters."""
    settings = {"bucket_size": 64, "min_elements": 100, "fusion_elements": 2500, "schedule": [0, 3], **options}
    settings["break_even"] = False
    constructor = getattr(alq_hvd.Compression, method)
    return lambda model: constructor(named_parameters=model.named_parameters(), **settings)


def unnamed(**options: Any) -> Callable[[Any], Any]:
    """Return a maker of compressions that go by call order."""
    settings = {"bucket_size": 64, "min_elements": 100, "schedule": [0, 3], "break_even": False, **options}
    return lambda model: alq_hvd.Compression.alq(**settings)


def collectives(communicator: Communicator, prefix: str) -> bool:
    """Check every collective of the protocol, several at once, in an order that differs between ranks."""
    rank, size = communicator.rank, communicator.size
    mine = np.full(5, rank, dtype=np.uint8)
    gathered = communicator.allgather(mine, f"{prefix}.a").wait()
    assert [part.tolist() for part in gathered] == [[r] * 5 for r in range(size)]
    received = communicator.alltoall([np.full(to + 1, rank, np.uint8) for to in range(size)], f"{prefix}.b").wait()
    assert [part.tolist() for part in received] == [[r] * (rank + 1) for r in range(size)]
    at_root = communicator.gather(np.full(rank, rank, np.uint8), size - 1, f"{prefix}.c").wait()
    assert [len(part) for part in at_root] == (list(range(size)) if rank == size - 1 else [])
    for repeat in range(20):
        root = repeat % size
        assert communicator.broadcast(mine + 3, root, f"{prefix}.d").wait().tolist() == [root + 3] * 5
    texts = ["x" * (r + 1) for r in range(size)]
    assert [raw.decode() for raw in allgather_bytes(communicator, texts[rank].encode(), f"{prefix}.e")] == texts
    return True


def horovod_collectives() -> bool:
    """Check the protocol over Horovod, with names started in different orders."""
    communicator = HorovodCommunicator()
    names = [f"order.{index}" for index in range(6)]
    random.Random(hvd.rank()).shuffle(names)
    pending = {name: communicator.allgather(np.full(3, int(name[-1]), np.uint8), name) for name in names}
    for name in sorted(pending):
        assert all(part.tolist() == [int(name[-1])] * 3 for part in pending[name].wait())
    return collectives(communicator, "horovod")


def mpi_collectives() -> Any:
    """Check the protocol over mpi4py beside Horovod; say why not where it cannot be used."""
    reason = mpi.unusable(hvd.size())
    return reason or collectives(mpi.MpiCommunicator.for_ranks(range(hvd.size())), "mpi")


def own_allreduces_stay_exact() -> bool:
    """Reduce something of the user's own while a compressed step is open."""
    torch.manual_seed(1)
    model = torch.nn.Linear(40, 40)
    compression = alq_hvd.Compression.alq(
        named_parameters=model.named_parameters(), min_elements=100, break_even=False, name="own"
    )
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1), named_parameters=model.named_parameters(), compression=compression
    )
    for _ in range(3):
        model(torch.randn(4, 40)).square().mean().backward()
        assert hvd.allreduce(torch.tensor([1.5, 2.25]), op=hvd.Sum).tolist() == [1.5 * hvd.size(), 2.25 * hvd.size()]
        optimizer.step()
        model.zero_grad()
    return True


def sparse_embedding() -> list[float]:
    """Train an embedding whose gradient is sparse beside a dense layer."""
    torch.manual_seed(2)
    embedding, dense = torch.nn.Embedding(300, 8, sparse=True), torch.nn.Linear(8, 200)
    parameters = [(f"e.{n}", p) for n, p in embedding.named_parameters()] + list(dense.named_parameters())
    compression = alq_hvd.Compression.alq(
        named_parameters=parameters, min_elements=100, break_even=False, name="sparse", bucket_size=1
    )
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD([p for _, p in parameters], lr=0.1),
        named_parameters=parameters,
        compression=compression,
        sparse_as_dense=True,
    )
    words = torch.tensor([hvd.rank(), 7])
    dense(embedding(words)).square().sum().backward()
    optimizer.step()
    return [float(embedding.weight[row].detach().abs().sum()) for row in range(10)]


def main(results: Path) -> None:
    """Run every scenario and write this rank's results."""
    hvd.init()
    fp32 = dict(compression=lambda model: hvd.Compression.none)
    outcome: dict[str, Any] = {
        "horovod_collectives": horovod_collectives(),
        "mpi_collectives": mpi_collectives(),
        "fp32": train(**fp32),
        "exact": train(compression=named("qsgdinf", bucket_size=1)),
        "none": train(compression=named("none")),
        "alq": train(compression=named()),
        "all_compressed": train(compression=named(min_elements=0), least=64),
        "all_compressed_again": train(compression=named(min_elements=0), least=64),
        "native_codec": train(compression=named(min_elements=0, schedule=[], codec="native"), least=64),
        "reference_codec": train(compression=named(min_elements=0, schedule=[], codec="reference"), least=64),
        "shuffled": train(compression=named(), shuffle=True),
        "unused": train(compression=named(), shuffle=True, unused_on_odd_ranks=True),
        "unnamed": train(compression=unnamed()),
        "predivided": train(compression=named("qsgdinf", bucket_size=1), gradient_predivide_factor=3.0),
        "fp32_sum": train(**fp32, op=hvd.Sum, steps=2),
        "exact_sum": train(compression=named("qsgdinf", bucket_size=1), op=hvd.Sum, steps=2),
        "fp32_two_passes": train(**fp32, passes=2),
        "exact_two_passes": train(compression=named("qsgdinf", bucket_size=1), passes=2),
        "exact_groups": train(compression=named("qsgdinf", bucket_size=1), groups=2),
        "own_allreduces": own_allreduces_stay_exact(),
        "sparse": sparse_embedding(),
    }
    (results / f"{hvd.rank()}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
