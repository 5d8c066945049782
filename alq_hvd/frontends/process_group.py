"""How the ranks of a torch process group reach each other: for all front ends that stand on torch.distributed."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from alq_hvd import backends
from alq_hvd.codec.base import Bytes
from alq_hvd.communicator.base import Communicator, allgather_bytes
from alq_hvd.communicator.nodes import Nodes, group_by_node
from alq_hvd.communicator.torch_distributed import Started, TorchCommunicator
from alq_hvd.engine.transport import Place
from alq_hvd.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class ProcessGroupTransport:
    """Reach the ranks of one process group; see ``Transport``.

    Attributes:
        gradients: of the process group.
        direct: records of a GPU travel over the process group itself, and not by way of the host.
    """

    gradients: TorchCommunicator
    direct: bool = False

    def control_problem(self) -> str:
        """Return that levels travel beside the records: between steps nothing else is on its way."""
        return "torch.distributed carries both"

    def control(self) -> Communicator:
        """Return the one communicator."""
        return self.gradients

    def nodes(self, ranks_per_node: int | None, name: str) -> Nodes:
        """Return process groups inside nodes and across them: nodes are what torchrun says, or else hosts."""
        if self.direct:
            raise ConfigurationError(
                "device_records: expected a flat exchange over torch.distributed, got hierarchical: go without, or use "
                'exchange="two_shot"'
            )
        ranks = self.gradients
        own = json.dumps(_node_of(ranks.rank, ranks_per_node)).encode()
        members = group_by_node([raw.decode() for raw in allgather_bytes(ranks, own, name)])
        inside = next(node for node in members if ranks.rank in node)
        across = [node[inside.index(ranks.rank)] for node in members]
        return Nodes(ranks.part(inside), ranks.part(across))

    @property
    def plain(self) -> ExactAllreduce:
        """Return the all-reduce of the user's own process group."""
        return ExactAllreduce(self.gradients)

    def attendance(self, repeats: bool, name: str) -> None:
        """Return None: a rank that has joined, in DDP's sense, still contributes zeros."""

    def device_records_problem(self, place: Place) -> str:
        """Return what a GPU's records lack: NCCL."""
        if (
            not str(getattr(place, "name", place)).startswith("cuda")
            or backends.torch_distributed().is_nccl_available()
        ):
            return ""
        return "expected a torch with NCCL, got one without: install a CUDA wheel of torch"


@dataclass(frozen=True, slots=True)
class ExactAllreduce:
    """Average floats as DDP does without a communication hook; see ``PlainAllreduce``.

    Collectives pair by order: all ranks must start them in one order.

    Attributes:
        communicator: whose process group takes part.
    """

    communicator: TorchCommunicator

    def start(self, floats: Bytes, half: bool, name: str) -> Started[None]:
        """Start to average the float32 numbers whose bytes ``floats`` are, in place; as float16 when ``half``."""
        torch = backends.torch()
        tensor = torch.as_tensor(floats).view(torch.float32)
        sent = tensor.half() if half else tensor

        def collect() -> None:
            if half:
                tensor.copy_(sent)

        return self.average(sent, name, collect)

    def average(self, tensor: Any, name: str, collect: Callable[[], None]) -> Started[None]:
        """Start to average ``tensor`` in place; ``collect`` is called when it is there."""
        tensor.div_(self.communicator.size)
        return self.communicator.allreduce(tensor, name, collect)


def _node_of(rank: int, ranks_per_node: int | None) -> int | str:
    """Return what the ranks of a node share."""
    if ranks_per_node:
        return rank // ranks_per_node
    return os.environ.get("GROUP_RANK") or socket.gethostname()
