"""Where the gradients of the one training are averaged: by Horovod, or by PyTorch's ``DistributedDataParallel``."""

from __future__ import annotations

import argparse
import inspect
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch

import alq_hvd
from alq_hvd import ddp
from alq_hvd.checkpoint import PreemptionGuard
from alq_hvd.communicator.base import Communicator
from alq_hvd.communicator.horovod import HorovodCommunicator
from alq_hvd.communicator.torch_distributed import TorchCommunicator
from alq_hvd.run_record import describe_world

STOCK = ("fp32", "fp16")
"""Compressions that the host brings along."""


class FrontEnd(Protocol):
    """Do what a training asks of its host.

    Attributes:
        communicator: of all ranks, once ``begin`` was called.
        reduces_in_backward: gradients are means when the backward pass returns.
    """

    communicator: Communicator
    reduces_in_backward: bool

    def guard(self) -> PreemptionGuard:
        """Return what notes signals from now on."""
        ...

    def begin(self) -> None:
        """Meet the other ranks."""
        ...

    def end(self) -> None:
        """Leave them."""
        ...

    def world(self) -> dict[str, Any]:
        """Return the fields of a result that say what ran where."""
        ...

    def compression(self, name: str, model: torch.nn.Module, options: dict[str, Any]) -> Any:
        """Return the compression ``name``; stock ones have no ``metrics``."""
        ...

    def prepare(
        self, model: torch.nn.Module, optimizer: Any, compression: Any, quantise: Callable[[Any], Any]
    ) -> tuple[Any, Any, Any]:
        """Return what computes, the optimizer of the training, and what ``quantise`` made of an optimizer.

        All ranks start with rank 0's weights.
        """
        ...

    def synchronize(self, optimizer: Any) -> AbstractContextManager[None]:
        """Wait for the means; inside what is returned, the optimizer may step."""
        ...


class HorovodFrontEnd:
    """Stand on Horovod; started by ``horovodrun``, or alone."""

    reduces_in_backward = False

    def guard(self) -> PreemptionGuard:
        """Note signals from before the first collective: one that comes early must wait, not kill a rank."""
        return PreemptionGuard()

    def begin(self) -> None:
        """Start Horovod."""
        import horovod.torch as hvd

        hvd.init()
        self._hvd, self.communicator = hvd, HorovodCommunicator()

    def end(self) -> None:
        """Stop Horovod."""
        self._hvd.shutdown()

    def world(self) -> dict[str, Any]:
        """Describe machine and Horovod."""
        return describe_world()

    def compression(self, name: str, model: torch.nn.Module, options: dict[str, Any]) -> Any:
        """Return the value of Horovod's own keyword, e.g. ``alq_hvd.Compression.alq(bits=3, named_parameters=...)``."""
        if name in STOCK:
            return {"fp32": self._hvd.Compression.none, "fp16": self._hvd.Compression.fp16}[name]
        return getattr(alq_hvd.Compression, name)(named_parameters=model.named_parameters(), **options)

    def prepare(
        self, model: torch.nn.Module, optimizer: Any, compression: Any, quantise: Callable[[Any], Any]
    ) -> tuple[Any, Any, Any]:
        """Wrap the optimizer."""
        self._hvd.broadcast_parameters(model.state_dict(), root_rank=0)
        wrapped = self._hvd.DistributedOptimizer(
            optimizer,
            named_parameters=model.named_parameters(),
            compression=compression,  # (2) Horovod's own keyword
        )
        return model, wrapped, quantise(wrapped)

    def synchronize(self, optimizer: Any) -> AbstractContextManager[None]:
        """Do what ``step()`` would do by itself: it is done apart only to be measured apart."""
        optimizer.synchronize()
        context: AbstractContextManager[None] = optimizer.skip_synchronize()
        return context


class DDPFrontEnd:
    """Stand on ``DistributedDataParallel`` over Gloo; started by ``torchrun``, or alone."""

    reduces_in_backward = True

    def guard(self) -> PreemptionGuard:
        """Meet the others first: the guard asks them."""
        self.begin()
        return PreemptionGuard(communicator=self.communicator)

    def begin(self) -> None:
        """Start torch.distributed, once."""
        if torch.distributed.is_initialized():
            return
        alone = {} if "RANK" in os.environ else {"store": torch.distributed.HashStore(), "rank": 0, "world_size": 1}
        torch.distributed.init_process_group("gloo", **alone)
        self.communicator = TorchCommunicator()

    def end(self) -> None:
        """Stop it."""
        torch.distributed.destroy_process_group()

    def world(self) -> dict[str, Any]:
        """Describe the machine."""
        return describe_world(self.communicator)

    def compression(self, name: str, model: torch.nn.Module, options: dict[str, Any]) -> Any:
        """Return the state of the hook."""
        if name in STOCK:
            return name
        return ddp.CompressionState(method=name, named_parameters=model.named_parameters(), **options)

    def prepare(
        self, model: torch.nn.Module, optimizer: Any, compression: Any, quantise: Callable[[Any], Any]
    ) -> tuple[Any, Any, Any]:
        """Wrap the model, which has its final parameters once weights are quantised."""
        weights = quantise(optimizer)
        ddp_model = torch.nn.parallel.DistributedDataParallel
        # Running statistics differ between ranks until they are averaged for the test, as under Horovod.
        newer = "forward_sync_buffers" in inspect.signature(ddp_model.__init__).parameters
        wrapped = ddp_model(model, **{"forward_sync_buffers" if newer else "broadcast_buffers": False})
        if isinstance(compression, ddp.CompressionState):
            wrapped.register_comm_hook(compression, ddp.hook)  # (2) DDP's own call
        elif compression == "fp16":
            from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

            wrapped.register_comm_hook(None, fp16_compress_hook)
        return wrapped, optimizer, weights

    def synchronize(self, optimizer: Any) -> AbstractContextManager[None]:
        """Do nothing: the backward pass has waited."""
        return nullcontext()


FRONT_ENDS: dict[str, Callable[[], FrontEnd]] = {"horovod": HorovodFrontEnd, "ddp": DDPFrontEnd}


def chosen(options: argparse.Namespace) -> FrontEnd:
    """Return the front end that the command line names."""
    return FRONT_ENDS[options.front_end]()
