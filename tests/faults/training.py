"""What every rank does until one of them goes wrong: train, save, restore, end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

RANKS, VICTIM = 3, 1
HANGS = 100.0
"""Seconds after which a rank that still runs must be hanging."""
OPTIONS: dict[str, Any] = {
    "bits": 4,
    "bucket_size": 64,
    "min_elements": 50,
    "fusion_elements": 2000,
    "exchange": "two_shot",
    "schedule": [1],
    "break_even": False,
}


def train(front_end: str, phase: str, fault: str, folder: Path, timeout: float) -> None:
    """Train on this rank; on one of them, let ``fault`` happen at ``phase``."""
    import faulthandler
    import os

    import torch

    import alq_hvd
    from alq_hvd.checkpoint import Checkpoint
    from alq_hvd.communicator.base import Communicator
    from tests.faults.injection import Injection

    rank = int(
        next(os.environ[name] for name in ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "RANK") if name in os.environ)
    )
    faulthandler.dump_traceback_later(HANGS)  # who hangs leaves where
    injection = Injection(phase, fault, armed=rank == VICTIM)
    torch.manual_seed(0)
    net = torch.nn.Sequential(*[layer for _ in range(3) for layer in (torch.nn.Linear(40, 40), torch.nn.Tanh())])
    options = {**OPTIONS, "timeout": timeout}
    communicator: Communicator
    if front_end == "horovod":
        import horovod.torch as hvd

        from alq_hvd.communicator.horovod import HorovodCommunicator
        from alq_hvd.communicator.mpi import MpiCommunicator
        from alq_hvd.frontends.horovod.transport import HorovodTransport

        injection.watch([HorovodCommunicator, MpiCommunicator], [HorovodTransport])
        hvd.init()
        compression = alq_hvd.Compression.alq(named_parameters=net.named_parameters(), **options)
        optimizer: Any = hvd.DistributedOptimizer(
            torch.optim.SGD(net.parameters(), lr=0.1), named_parameters=net.named_parameters(), compression=compression
        )
        called: Any = net
        communicator = HorovodCommunicator(timeout=timeout)
    else:
        import torch.distributed as dist

        from alq_hvd.communicator.torch_distributed import TorchCommunicator

        injection.watch([TorchCommunicator], [])
        dist.init_process_group("gloo")
        called = torch.nn.parallel.DistributedDataParallel(net, bucket_cap_mb=0.01)
        compression = alq_hvd.ddp.CompressionState("alq", named_parameters=net.named_parameters(), **options)
        called.register_comm_hook(compression, alq_hvd.ddp.hook)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        communicator = TorchCommunicator(timeout=timeout)
    checkpoint = Checkpoint(
        folder / "checkpoints", model=net, optimizer=optimizer, compression=compression, communicator=communicator
    )

    def steps(number: int) -> None:
        for _ in range(number):
            optimizer.zero_grad()
            called(torch.full((4, 40), 1.0 + rank)).square().mean().backward()
            optimizer.step()

    steps(3)
    checkpoint.save(3, {})
    checkpoint.restore()
    steps(1)
    print("finished", file=sys.stderr, flush=True)
    injection.at("shutdown")
