"""Nodes of Horovod's ranks: process sets inside each node, and across them."""

from __future__ import annotations

import json
import os
from typing import Any

from alq_hvd import backends
from alq_hvd.communicator.base import Communicator, allgather_bytes
from alq_hvd.communicator.horovod import HorovodCommunicator
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.communicator.nodes import Nodes, group_by_node
from alq_hvd.errors import BackendUnavailable
from alq_hvd.frontends.horovod.farewell import wait_at_exit

DYNAMIC = "HOROVOD_DYNAMIC_PROCESS_SETS"


def nodes_of(communicator: HorovodCommunicator, ranks_per_node: int | None, name: str) -> Nodes:
    """Return this rank's place; every rank must call it.

    1. Every rank tells which node it is on, and whether it may add process sets. 2. Every rank adds the same ones in
    the same order: one a node, then one a place on a node. Either step fails on all ranks or on none.

    All ranks must agree on: ranks_per_node, name.

    Args:
        communicator: all ranks.
        ranks_per_node: so many ranks that follow each other make a node; ``None`` for what Horovod says.
        name: of the collectives.

    Raises:
        ConfigurationError: when nodes are not alike.
        BackendUnavailable: when Horovod was not started so that process sets can be added.
    """
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
    if 1 < len(members) < communicator.size:
        wait_at_exit(communicator, name)
    return Nodes(inside, across)


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
