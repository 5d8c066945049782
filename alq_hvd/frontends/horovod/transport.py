"""How Horovod's ranks reach each other: its collectives, MPI beside it, its process sets, its own all-reduce."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from alq_hvd import backends
from alq_hvd.communicator import mpi
from alq_hvd.communicator.base import Communicator, Pending, allgather_bytes
from alq_hvd.communicator.horovod import HorovodCommunicator
from alq_hvd.communicator.nodes import Nodes
from alq_hvd.engine.transport import Attendance, Place
from alq_hvd.frontends.horovod.nodes import nodes_of
from alq_hvd.frontends.horovod.probe import summed_type
from alq_hvd.frontends.horovod.stock import StockAllreduce

ASYNC_COMPLETION = "HOROVOD_ENABLE_ASYNC_COMPLETION"
"""Lets Horovod say that a collective is done before its data are there."""


@dataclass(frozen=True, slots=True)
class HorovodTransport:
    """Reach the ranks of one process set; see ``Transport``.

    Attributes:
        gradients: of the process set.
        name: prefix of the collectives' names.
    """

    gradients: HorovodCommunicator
    name: str

    def control_problem(self) -> str:
        """Return why mpi4py cannot serve beside Horovod; empty when it can."""
        return mpi.unusable(self.gradients.size)

    def control(self) -> Communicator:
        """Return MPI on a communicator of our own.

        Horovod may have been started on a part of MPI's world, or in another order: each rank tells its place there.
        """
        own = str(backends.mpi().COMM_WORLD.Get_rank()).encode()
        places = [int(told) for told in allgather_bytes(self.gradients, own, f"{self.name}.mpi")]
        return mpi.MpiCommunicator.for_ranks(places, self.gradients.timeout)

    def nodes(self, ranks_per_node: int | None, name: str) -> Nodes:
        """Return process sets inside nodes and across them."""
        return nodes_of(self.gradients, ranks_per_node, name)

    @property
    def plain(self) -> StockAllreduce:
        """Return Horovod's own all-reduce."""
        return StockAllreduce(self.gradients)

    def attendance(self, repeats: bool, name: str) -> Pending[Attendance]:
        """Ask by an all-reduce, the one collective to which Horovod adds zeros for ranks that have joined.

        In the type and by the operation of most probes: Horovod sends it in one message with the first of them.
        """
        torch, hvd, own = backends.torch(), backends.horovod(), self.gradients
        size = own.size
        told = torch.tensor([1.0, float(own.rank == 0), float(repeats)], dtype=summed_type(size), device="cpu")
        handle = hvd.allreduce_async_(told, name=name, op=hvd.Average, process_set=own.process_set)
        return own.pending(handle, f"attendance {name!r}", lambda means: _attendance(means.numpy() * size))

    def device_records_problem(self, place: Place) -> str:
        """Return what a GPU's records lack: Horovod's NCCL, or collectives that are done when their data are there."""
        if not str(getattr(place, "name", place)).startswith("cuda"):
            return ""
        if not backends.horovod().nccl_built():
            return "expected a Horovod built with HOROVOD_GPU_OPERATIONS=NCCL, got one without NCCL: build it so"
        if os.environ.get(ASYNC_COMPLETION, "0").strip() not in ("", "0"):
            return (
                f"expected collectives that are done when their data are there, got {ASYNC_COMPLETION}="
                f"{os.environ[ASYNC_COMPLETION]}, where only the stream of Horovod's thread waits for them: unset it"
            )
        return ""


def _attendance(sums: Any) -> Attendance:
    present, leads, repeats = np.rint(sums).astype(int).tolist()
    return Attendance(present, bool(leads), repeats == present)
