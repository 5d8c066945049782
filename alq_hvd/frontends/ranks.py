"""Which ranks a user means: a process group, a mesh, an MPI communicator, or everyone."""

from __future__ import annotations

import sys
from typing import Any

from alq_hvd import backends
from alq_hvd.communicator.base import Communicator
from alq_hvd.communicator.mpi import MpiCommunicator
from alq_hvd.communicator.torch_distributed import TorchCommunicator
from alq_hvd.engine.transport import PlainTransport, Transport
from alq_hvd.errors import ConfigurationError
from alq_hvd.frontends.process_group import ProcessGroupTransport


def transport_over(over: Any, timeout: float) -> Transport:
    """Return the way to the ranks that ``over`` names. Each of them must call this.

    Args:
        over: a ``torch.distributed.ProcessGroup`` or one-dimensional ``DeviceMesh``; an ``mpi4py.MPI.Comm``; a
            ``Communicator``; ``None`` for all ranks of torch.distributed.
        timeout: seconds a collective may take.

    Raises:
        ConfigurationError: it names no ranks, or torch.distributed was not started.
    """
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and isinstance(over, mpi.Comm):
        if over == mpi.COMM_NULL:
            raise ConfigurationError("over: expected a communicator with this rank, got MPI.COMM_NULL")
        return PlainTransport(MpiCommunicator.beside(over, timeout))
    if _is_communicator(over):
        return PlainTransport(over)
    return ProcessGroupTransport(TorchCommunicator(group_of(over, "over"), timeout))


def group_of(ranks: Any, option: str) -> Any:
    """Return the process group that a user means by a group, or by a mesh.

    Raises:
        ConfigurationError: ``ranks`` is a mesh of several dimensions, or no such thing.
    """
    if hasattr(ranks, "get_group"):
        if ranks.ndim != 1:
            raise ConfigurationError(
                f"{option}: expected a mesh of one dimension, got {ranks}: name the dimension, as in mesh['replicate']"
            )
        return ranks.get_group()
    dist = backends.torch_distributed()
    if ranks is None or isinstance(ranks, dist.ProcessGroup) or ranks is dist.GroupMember.NON_GROUP_MEMBER:
        return ranks
    raise ConfigurationError(
        f"{option}: expected a process group of torch.distributed, a mesh of one dimension or an mpi4py communicator, "
        f"got {type(ranks).__name__}"
    )


def _is_communicator(over: Any) -> bool:
    methods = [name for name in vars(Communicator) if not name.startswith("_")]
    return all(hasattr(over, name) for name in methods)
