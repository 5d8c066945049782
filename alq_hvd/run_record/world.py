"""What a run runs on: every rank's machine, gathered into one description."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from alq_hvd import backends, machine
from alq_hvd.communicator.base import Communicator, allgather_bytes
from alq_hvd.communicator.horovod import HorovodCommunicator

JOB_VARIABLES = ("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_JOB_PARTITION", "SLURM_CLUSTER_NAME")


def describe_world(communicator: Communicator | None = None) -> dict[str, Any]:
    """Return the fields of a result that say what ran where; the same on every rank, but for ``command``.

    All ranks must agree on: when this is called.

    Args:
        communicator: of all ranks; Horovod's when ``None``, which must be initialised.
    """
    horovod = communicator is None
    communicator = communicator or HorovodCommunicator()
    own = json.dumps([sorted(os.sched_getaffinity(0)), machine.describe()]).encode()
    ranks = [json.loads(raw) for raw in allgather_bytes(communicator, own, "alq_hvd.machine")]
    nodes: dict[str, dict[str, Any]] = {}
    cores: dict[str, set[int]] = {}
    for rank, (numbers, described) in enumerate(ranks):
        node = nodes.setdefault(described["host"], {**described, "ranks": []})
        node["ranks"].append(rank)
        # A rank bound to its own cores and GPU sees only those.
        cores.setdefault(node["host"], set()).update(numbers)
        node["cores"] = len(cores[node["host"]])
        node["gpus"] = max(node["gpus"], described["gpus"], key=len)
    software = {**ranks[0][1]["software"], **(_horovod() if horovod else {})}
    return {
        "nodes": list(nodes.values()),
        "software": software,
        "commit": machine.commit(Path(sys.argv[0] or ".").resolve().parent),
        "command": sys.argv,
        "job": {name: os.environ[name] for name in JOB_VARIABLES if name in os.environ},
    }


def _horovod() -> dict[str, str]:
    """Return what Horovod and PyTorch were built with and use here."""
    hvd, torch = backends.horovod(), backends.torch()
    over_mpi = bool(hvd.mpi_enabled())
    found = {"horovod controller": "MPI" if over_mpi else "Gloo", "NCCL": _nccl(int(hvd.nccl_built()))}
    if torch.version.cuda:
        found["CUDA"] = torch.version.cuda
    if over_mpi and backends.available("mpi4py"):
        # The first line: Open MPI puts its packager and build into the same text.
        found["MPI"] = backends.mpi().Get_library_version().strip("\0 \n").splitlines()[0].split(", package")[0]
    return found


def _nccl(code: int) -> str:
    """Return NCCL's version out of its code: 21805 is 2.18.5, and 2804, of the older way to write it, 2.8.4."""
    if not code:
        return "not built"
    thousand = 10_000 if code >= 10_000 else 1_000
    return f"{code // thousand}.{code % thousand // 100}.{code % 100}"
