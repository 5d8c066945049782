"""Which ranks share a node, and communicators inside it and across nodes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from alq_hvd import backends
from alq_hvd.communicator.base import Communicator, allgather_bytes
from alq_hvd.communicator.horovod import HorovodCommunicator
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.errors import BackendUnavailable, ConfigurationError

DYNAMIC = "HOROVOD_DYNAMIC_PROCESS_SETS"


@dataclass(frozen=True, slots=True)
class Nodes:
    """Place one rank in a grid of nodes that all have equally many ranks.

    Attributes:
        inside: the ranks of this rank's node.
        across: the ranks that have this rank's place on every node.
    """

    inside: Communicator
    across: Communicator


@runtime_checkable
class OnNodes(Protocol):
    """Be a communicator that knows its nodes: a simulated world."""

    @property
    def nodes(self) -> Nodes:
        """Return this rank's place."""
        ...


def nodes_of(communicator: Communicator, ranks_per_node: int | None, name: str) -> Nodes:
    """Return this rank's place; every rank must call it.

    1. Every rank tells which node it is on, and whether it may add process sets. 2. Every rank adds the same ones in
    the same order: one a node, then one a place on a node. Either step fails on all ranks or on none.

    All ranks must agree on: ranks_per_node, name.

    Args:
        communicator: all ranks; Horovod's, or one that is ``OnNodes``.
        ranks_per_node: so many ranks that follow each other make a node; ``None`` for what Horovod says.
        name: of the collectives.

    Raises:
        ConfigurationError: when nodes are not alike, or this kind of communicator has none.
        BackendUnavailable: when Horovod was not started so that process sets can be added.
    """
    if isinstance(communicator, OnNodes):
        return communicator.nodes
    if not isinstance(communicator, HorovodCommunicator):
        raise ConfigurationError(
            f"exchange: hierarchical needs to know nodes, which {type(communicator).__name__} does not tell"
        )
    hvd = backends.horovod()
    own = communicator.rank // ranks_per_node if ranks_per_node else _node_of_this_process(hvd)
    own_word = json.dumps((own, os.environ.get(DYNAMIC) == "1")).encode()
    told = [json.loads(raw) for raw in allgather_bytes(communicator, own_word, name)]
    members = group_by_node([node for node, _ in told])
    unable = [rank for rank, (_, dynamic) in enumerate(told) if not dynamic]
    if unable:
        raise BackendUnavailable(
            f"exchange: hierarchical adds process sets, which Horovod allows when started with {DYNAMIC}=1: set it in "
            f"the environment of every rank, rank {unable[0]} lacks it"
        )
    places = [list(place) for place in zip(*members, strict=True)]
    world = communicator.world_ranks
    mine: list[Communicator] = []
    for ranks in (*members, *places):
        process_set = _process_set(hvd, [world[rank] for rank in ranks], len(ranks) == communicator.size)
        if communicator.rank in ranks:
            mine.append(_communicator(process_set, communicator, len(ranks)))
    inside, across = mine
    return Nodes(inside, across)


def useful_nodes(communicator: Communicator, ranks_per_node: int | None, name: str) -> Nodes | None:
    """Return this rank's place if ``hierarchical`` is possible and more than a flat exchange, the same on every rank.

    ``None``: one rank a node, one node, nodes that differ, or a Horovod that may not add process sets.
    See ``nodes_of``.
    """
    try:
        nodes = nodes_of(communicator, ranks_per_node, name)
    except (ConfigurationError, BackendUnavailable):
        return None
    return nodes if nodes.inside.size > 1 and nodes.across.size > 1 else None


def group_by_node(nodes: Sequence[Any]) -> list[list[int]]:
    """Return the ranks of each node, nodes in the order of their first rank.

    Args:
        nodes: what each rank calls its node.

    Raises:
        ConfigurationError: when nodes have different numbers of ranks.
    """
    members: dict[Any, list[int]] = {}
    for rank, node in enumerate(nodes):
        members.setdefault(node, []).append(rank)
    sizes = {len(ranks) for ranks in members.values()}
    if len(sizes) > 1:
        described = "; ".join(f"ranks {ranks}" for ranks in members.values())
        raise ConfigurationError(
            f"exchange: hierarchical needs equally many ranks on every node, got {described}. Start as many ranks on "
            'each, or use exchange="two_shot"'
        )
    return list(members.values())


def _node_of_this_process(hvd: Any) -> int:
    """Return a number that the ranks of a node share: ranks with one place on their nodes are numbered by node."""
    return int(hvd.cross_rank())


def _process_set(hvd: Any, ranks: list[int], everyone: bool) -> Any:
    """Return Horovod's process set of ``ranks``; ``None`` where none is needed: for one rank, or for ``everyone``."""
    if len(ranks) == 1 or everyone:
        return None
    for number, members in hvd.mpi_ops._basics._get_process_set_ids_and_ranks().items():
        if list(members) == ranks:  # Horovod refuses to add it again
            found = hvd.ProcessSet(ranks)
            found.process_set_id = number
            return found
    return hvd.add_process_set(ranks)


def _communicator(process_set: Any, whole: HorovodCommunicator, size: int) -> Communicator:
    if process_set is not None:
        return HorovodCommunicator(process_set, whole.timeout)
    return whole if size > 1 else LoopbackCommunicator(LoopbackWorld(1), 0)
