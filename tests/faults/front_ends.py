"""What each front end needs so that a small network trains under it: one function a front end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

OPTIONS: dict[str, Any] = {
    "bits": 4,
    "bucket_size": 64,
    "min_elements": 50,
    "fusion_elements": 2000,
    "exchange": "two_shot",
    "schedule": [1],
    "break_even": False,
}


@dataclass(frozen=True, slots=True)
class Trained:
    """Represent a network under one front end.

    Attributes:
        called: gives the output; the network itself, or what is wrapped around it.
        optimizer: takes the step.
        compression: has a state for the checkpoint.
        communicator: carries the checkpoint.
        between: is called between the backward pass and the optimizer's step.
    """

    called: Any
    optimizer: Any
    compression: Any
    communicator: Any
    between: Callable[[], None] = lambda: None


def under(front_end: str, net: Any, injection: Any, timeout: float) -> Trained:
    """Return ``net`` under ``front_end``; ``injection`` looks at all collectives that are started."""
    maker = {"horovod": _horovod, "mpi": _horovod, "ddp": _ddp, "fsdp": _fsdp, "plain": _plain, "plain-mpi": _plain_mpi}
    return maker[front_end](net, injection, {**OPTIONS, "timeout": timeout})


def _descent(net: Any) -> Any:
    import torch

    return torch.optim.SGD(net.parameters(), lr=0.1)


def _horovod(net: Any, injection: Any, options: dict[str, Any]) -> Trained:
    import horovod.torch as hvd

    import alq_hvd
    from alq_hvd.communicator.horovod import HorovodCommunicator
    from alq_hvd.communicator.mpi import MpiCommunicator
    from alq_hvd.frontends.horovod.transport import HorovodTransport

    injection.watch([HorovodCommunicator, MpiCommunicator], [HorovodTransport])
    hvd.init()
    compression = alq_hvd.Compression.alq(named_parameters=net.named_parameters(), **options)
    optimizer = hvd.DistributedOptimizer(
        _descent(net), named_parameters=net.named_parameters(), compression=compression
    )
    return Trained(net, optimizer, compression, HorovodCommunicator(timeout=options["timeout"]))


def _torch(injection: Any, timeout: float, patience: timedelta | None = None) -> Any:
    """Start torch.distributed, whose own collectives get ``patience``; return a communicator over it."""
    import torch.distributed as dist

    from alq_hvd.communicator.torch_distributed import TorchCommunicator

    injection.watch([TorchCommunicator], [])
    dist.init_process_group("gloo", timeout=patience)
    return TorchCommunicator(timeout=timeout)


def _ddp(net: Any, injection: Any, options: dict[str, Any]) -> Trained:
    import torch

    import alq_hvd

    communicator = _torch(injection, options["timeout"])
    called = torch.nn.parallel.DistributedDataParallel(net, bucket_cap_mb=0.01)
    compression = alq_hvd.ddp.CompressionState("alq", named_parameters=net.named_parameters(), **options)
    called.register_comm_hook(compression, alq_hvd.ddp.hook)
    return Trained(called, _descent(net), compression, communicator)


def _fsdp(net: Any, injection: Any, options: dict[str, Any]) -> Trained:
    """Parameters are FSDP's own to gather, over the process group: its timeout bounds those waits."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    import alq_hvd

    timeout = options["timeout"]
    communicator = _torch(injection, timeout, timedelta(seconds=timeout))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in list(net.children())[::2]:
        fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    own = {name: value for name, value in options.items() if name not in ("exchange", "fusion_elements")}
    compression = alq_hvd.fsdp.compress(net, method="alq", **own)
    return Trained(net, _descent(net), compression, communicator)


def _calls(net: Any, over: Any, communicator: Any, options: dict[str, Any]) -> Trained:
    import alq_hvd

    average = alq_hvd.Allreduce(over, method="alq", **options)
    between = lambda: average({name: each.grad for name, each in net.named_parameters()})  # noqa: E731
    return Trained(net, _descent(net), average, communicator, between)


def _plain(net: Any, injection: Any, options: dict[str, Any]) -> Trained:
    return _calls(net, None, _torch(injection, options["timeout"]), options)


def _plain_mpi(net: Any, injection: Any, options: dict[str, Any]) -> Trained:
    from mpi4py import MPI

    from alq_hvd.communicator.mpi import MpiCommunicator

    injection.watch([MpiCommunicator], [])
    return _calls(net, MPI.COMM_WORLD, MpiCommunicator.beside(MPI.COMM_WORLD, options["timeout"]), options)
