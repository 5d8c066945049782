"""What every rank does until one of them goes wrong: train, save, restore, end."""

from __future__ import annotations

import sys
from pathlib import Path

RANKS, VICTIM = 3, 1
HANGS = 100.0
"""Seconds after which a rank that still runs must be hanging."""


def train(front_end: str, phase: str, fault: str, folder: Path, timeout: float) -> None:
    """Train on this rank; on one of them, let ``fault`` happen at ``phase``.

    Under FSDP each rank keeps another part of the parameters: that is torch.distributed.checkpoint's to save.
    """
    import faulthandler
    import os

    import torch

    from alq_hvd.checkpoint import Checkpoint
    from tests.faults.front_ends import under
    from tests.faults.injection import Injection

    rank = int(
        next(os.environ[name] for name in ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "RANK") if name in os.environ)
    )
    faulthandler.dump_traceback_later(HANGS)  # who hangs leaves where
    injection = Injection(phase, fault, armed=rank == VICTIM)
    torch.manual_seed(0)
    net = torch.nn.Sequential(*[layer for _ in range(3) for layer in (torch.nn.Linear(40, 40), torch.nn.Tanh())])
    trained = under(front_end, net, injection, timeout)

    def steps(number: int) -> None:
        for _ in range(number):
            trained.optimizer.zero_grad()
            trained.called(torch.full((4, 40), 1.0 + rank)).square().mean().backward()
            trained.between()
            trained.optimizer.step()

    steps(3)
    if front_end != "fsdp":
        checkpoint = Checkpoint(
            folder / "checkpoints",
            model=net,
            optimizer=trained.optimizer,
            compression=trained.compression,
            communicator=trained.communicator,
        )
        checkpoint.save(3, {})
        checkpoint.restore()
    steps(1)
    print("finished", file=sys.stderr, flush=True)
    injection.at("shutdown")
