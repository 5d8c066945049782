"""``alq-hvd nodes``: measure every node of a job, one MPI rank each, and name the odd ones."""

from __future__ import annotations

import argparse
import os
import socket
import time
from typing import Any

import numpy as np

from alq_hvd import backends, machine
from alq_hvd.cli import Subparsers
from alq_hvd.slurm.nodes import Node, oddities, table

_ROUNDS = 20
_TAG = 7


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the options of this subcommand."""
    parser = subparsers.add_parser(
        "nodes",
        help="measure every node of a job and name those that differ; start it with launch/check_cluster.sh",
        description="Measure cores, GPUs, versions, clock, latency and bandwidth of every node and name those unlike "
        "the others. Start one rank a node, which launch/check_cluster.sh does. Status 1: some nodes differ.",
    )
    parser.add_argument("--megabytes", type=int, default=32, metavar="N", help="sent each way to measure (default: 32)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Measure; on rank 0 print the table."""
    mpi = backends.mpi()
    own = not mpi.Is_initialized()
    if own:
        mpi.Init()
    comm = mpi.COMM_WORLD
    nodes: list[Node] = comm.allgather(measure(comm, args.megabytes * 10**6))
    if comm.rank == 0:
        print(table(nodes), flush=True)
    if own:
        mpi.Finalize()
    return 1 if oddities(nodes) else 0


def measure(comm: Any, size: int) -> Node:
    """Return what this rank's node is like; collective."""
    clock = clock_offset(comm)
    latency, bandwidth = 0.0, 0.0
    links = {tuple(sorted((rank, (rank + 1) % comm.size))) for rank in range(comm.size) if comm.size > 1}
    for one, other in sorted(links):  # one link at a time: what is measured is the link, not the switch
        comm.Barrier()
        if comm.rank in (one, other):
            seconds, rate = link(comm, other if comm.rank == one else one, size)
            latency = seconds if not latency else min(latency, seconds)
            bandwidth = max(bandwidth, rate)
    return Node(
        host=socket.gethostname(),
        cores=len(os.sched_getaffinity(0)),
        gpus=tuple(machine.gpu_names()),
        versions=machine.versions(),
        clock=clock,
        latency=latency,
        bandwidth=bandwidth,
    )


def clock_offset(comm: Any) -> float:
    """Return seconds this clock is ahead of rank 0's: from the fastest of several questions and answers."""
    best, offset = float("inf"), 0.0
    for rank in range(1, comm.size):
        for _ in range(_ROUNDS):
            if comm.rank == 0:
                comm.recv(source=rank, tag=_TAG)
                comm.send(time.time(), dest=rank, tag=_TAG)
            elif comm.rank == rank:
                asked = time.time()
                comm.send(None, dest=0, tag=_TAG)
                answer = comm.recv(source=0, tag=_TAG)
                answered = time.time()
                if answered - asked < best:
                    best, offset = answered - asked, (asked + answered) / 2 - answer
    return offset


def link(comm: Any, partner: int, size: int) -> tuple[float, float]:
    """Return seconds of a small message one way, and bytes a second each way, at their best of several."""
    small, latency = np.zeros(1, dtype=np.uint8), float("inf")
    for _ in range(_ROUNDS):
        latency = min(latency, _exchange(comm, partner, small) / 2)
    large = np.zeros(size, dtype=np.uint8)
    fastest = min(_exchange(comm, partner, large) for _ in range(3))
    return latency, size / fastest


def _exchange(comm: Any, partner: int, payload: Any) -> float:
    received = np.empty_like(payload)
    began = time.perf_counter()
    comm.Sendrecv(payload, partner, _TAG, received, partner, _TAG)
    return time.perf_counter() - began
