"""Ranks of torch.distributed as forks of one process: DDP's imports, which take longer than a test, happen once."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path


def fork(ranks: int, program: Callable[[Path], None], results: Path) -> None:
    """Run ``program(results)`` in ``ranks`` processes, with the environment that torchrun would give each.

    Raises:
        SystemExit: a rank has failed; the others are stopped then.
    """
    import torch._dynamo  # noqa: F401

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}

    def one_rank(rank: int) -> None:
        os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
        program(results)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=one_rank, args=(rank,)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            for other in processes:
                other.terminate()
            raise SystemExit(f"a rank has ended with exit code {process.exitcode}")
