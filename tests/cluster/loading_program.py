"""A training whose data come from worker processes of every kind; Slurm signals them together with the ranks.

loading_program.py DIRECTORY STEPS
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import horovod.torch as hvd
import torch
from torch.utils.data import DataLoader, IterableDataset

from alq_hvd.checkpoint import PREEMPTED_STATUS, Checkpoint, PreemptionGuard


class Slow(IterableDataset[torch.Tensor]):
    """Make inputs that are not there before they are asked for."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        while True:
            time.sleep(0.02)
            yield torch.ones(4)


def main() -> int:
    """Train until the last step or a signal; return the status."""
    directory, steps = Path(sys.argv[1]), int(sys.argv[2])
    hvd.init()
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
    with PreemptionGuard() as guard:
        checkpoint = Checkpoint(directory / "checkpoints", model=model, optimizer=optimizer)
        restored = checkpoint.restore()
        step = restored.step if restored else 0
        loaders = [
            iter(DataLoader(Slow(), batch_size=2, num_workers=1, multiprocessing_context=method))
            for method in ("fork", "spawn", "forkserver")
        ]
        while step < steps:
            optimizer.zero_grad()
            model(next(loaders[step % 3])).sum().backward()
            optimizer.step()
            step += 1
            if hvd.rank() == 0:
                (directory / "step").write_text(str(step))
            if guard.stop_agreed():
                checkpoint.save(step, {})
                return PREEMPTED_STATUS
    (directory / f"end-{hvd.rank()}").write_text(f"{restored.step if restored else 0} {step}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
