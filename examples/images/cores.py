"""Let the ranks of one machine share its cores without getting in each other's way."""

from __future__ import annotations

import os

import torch


def share_cores() -> None:
    """Give this rank OMP_NUM_THREADS or else its part of the cores; let a waiting rank make room where they are few.

    Call before the ranks meet: Open MPI reads its settings when it starts. By default it spins while it waits, on a
    core that another rank needs to get to the point being waited for.
    """
    cores = len(os.sched_getaffinity(0))
    ranks = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or max(1, cores // ranks)))
    if ranks > cores:
        os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
