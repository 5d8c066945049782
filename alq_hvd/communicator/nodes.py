"""Which ranks share a node, and communicators inside it and across nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from alq_hvd.communicator.base import Communicator
from alq_hvd.errors import ConfigurationError


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
    """A communicator that knows its nodes: a simulated world."""

    @property
    def nodes(self) -> Nodes:
        """Return this rank's place."""
        ...


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
