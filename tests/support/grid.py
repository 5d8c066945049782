"""Loopback ranks on pretend nodes, with as many ranks on each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.communicator.nodes import Nodes
from tests.support.exchanging import Watched


@dataclass
class OnGrid(Watched):
    """Be one rank of a grid: its node's ranks and its peers on other nodes are worlds of their own."""

    nodes: Any = None


def grid(nodes: int, per_node: int) -> Callable[[LoopbackCommunicator], OnGrid]:
    """Return what places each rank of a world of ``nodes`` times ``per_node``; ranks of a node follow each other."""
    node_worlds = [LoopbackWorld(per_node) for _ in range(nodes)]
    place_worlds = [LoopbackWorld(nodes) for _ in range(per_node)]

    def placed(ranks: LoopbackCommunicator) -> OnGrid:
        node, place = divmod(ranks.rank, per_node)
        inside = Watched(LoopbackCommunicator(node_worlds[node], place))
        across = Watched(LoopbackCommunicator(place_worlds[place], node))
        return OnGrid(ranks, nodes=Nodes(inside, across))

    return placed
