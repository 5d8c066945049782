"""How long one step's communication takes: bytes over the slowest link, the latency of hops, and the codec's work.

A model of large messages: every link sends and receives at once at its full rate; rings whose neighbours share a node
where possible; all-to-all straight to each peer, one after another. While one fusion group travels, the codec works on
another, and a third waits for its collective to begin. What overlaps with the backward pass is not taken off. It is
kind to plain Horovod, whose additions and conversions to half precision it counts as free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from alq_hvd.errors import ConfigurationError
from alq_hvd.exchange import traffic
from alq_hvd.quantiser.config import require_int


@dataclass(frozen=True, slots=True)
class Link:
    """Describe one port.

    Attributes:
        bits_per_second: each way.
        latency: seconds from one end to the other, software included.
    """

    bits_per_second: float
    latency: float = 25e-6

    def seconds(self, byte_count: float) -> float:
        """Return how long ``byte_count`` bytes take to leave."""
        return 8 * byte_count / self.bits_per_second


@dataclass(frozen=True, slots=True)
class World:
    """Describe where the ranks are.

    Attributes:
        ranks: in all.
        ranks_per_node: ranks that share a node and its port to the network; divides ``ranks``.
        network: the port of a node.
        inside: the port of a rank towards the other ranks of its node.
    """

    ranks: int
    ranks_per_node: int
    network: Link
    inside: Link

    def __post_init__(self) -> None:
        require_int("ranks", self.ranks, 1, 2**20)
        require_int("ranks per node", self.ranks_per_node, 1, self.ranks)
        if self.ranks % self.ranks_per_node:
            raise ConfigurationError(
                f"ranks per node: expected a divisor of {self.ranks} ranks, got {self.ranks_per_node}: nodes must be "
                "alike"
            )

    @property
    def nodes(self) -> int:
        """Return how many nodes there are."""
        return self.ranks // self.ranks_per_node


@dataclass(frozen=True, slots=True)
class CodecSpeed:
    """Say how many coordinates a rank handles a second: encoded, and decoded and added."""

    encode: float
    decode: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Tell what one step costs.

    Attributes:
        bytes_per_rank: sent by each rank, inside its node or out of it.
        bytes_per_node: sent through a node's port to the network.
        link_seconds: on the wires.
        latency_seconds: of all hops, one after another.
        codec_seconds: encoding and decoding on each rank.
        messages: fusion groups.
    """

    bytes_per_rank: float
    bytes_per_node: float
    link_seconds: float
    latency_seconds: float
    codec_seconds: float
    messages: int = 1

    @property
    def seconds(self) -> float:
        """Return the time of a pipeline: the slowest of wires, latencies and codec, and one group of the others."""
        slowest, *others = sorted((self.link_seconds, self.latency_seconds, self.codec_seconds), reverse=True)
        return slowest + sum(others) / self.messages


def allreduce(world: World, elements: int, bytes_per_element: float, messages: int = 1) -> Cost:
    """Return the cost of an all-reduce over all ranks, in ``messages`` fused buffers.

    Trees, which libraries take for many ranks, send the same bytes in 2 log2(n) hops instead of the ring's 2 (n-1).
    """
    sent = traffic.ring_allreduce(world.ranks, bytes_per_element) * elements
    hops = 2 * min(world.ranks - 1, math.ceil(math.log2(world.ranks)))
    return _ring(world, sent, hops, 0.0, messages)


def allgather(
    world: World, elements: int, bits: Sequence[float], bucket_size: int, codec: CodecSpeed, messages: int = 1
) -> Cost:
    """Return the cost of one shot in which every rank decodes every record."""
    sent = traffic.allgather(world.ranks, bits, bucket_size) * elements
    work = elements / codec.encode + world.ranks * elements / codec.decode
    return _ring(world, sent, world.ranks - 1, work, messages)


def two_shot(
    world: World, elements: int, bits: Sequence[float], bucket_size: int, codec: CodecSpeed, messages: int = 1
) -> Cost:
    """Return the cost of an all-to-all of chunks, then an all-gather of their sums.

    In the all-to-all every rank of a node sends to every rank elsewhere through the node's one port; in the ring of the
    all-gather only one neighbour does.
    """
    ranks, local = world.ranks, world.ranks_per_node
    first, second = (traffic.code_bytes(width, bucket_size) * elements for width in bits)
    out_of_node = local * (ranks - local) / ranks * first
    inside = (local - 1) / ranks * first
    around = (ranks - 1) / ranks * second
    work = elements * (1 + 1 / ranks) / codec.encode + 2 * elements / codec.decode
    to_peers = max(world.network.seconds(out_of_node) if world.nodes > 1 else 0.0, world.inside.seconds(inside))
    ring = _ring(world, around, 2 * (ranks - 1), work, messages)
    return replace(
        ring,
        bytes_per_rank=(ranks - 1) / ranks * first + around,
        bytes_per_node=out_of_node + ring.bytes_per_node,
        link_seconds=to_peers + ring.link_seconds,
    )


def hierarchical(
    world: World, elements: int, bits: Sequence[float], bucket_size: int, codec: CodecSpeed, messages: int = 1
) -> Cost:
    """Return the cost of an exact sum inside each node, two-shot of every rank's share between nodes, exact spread."""
    nodes, local = world.nodes, world.ranks_per_node
    split = traffic.hierarchical(nodes, local, bits, bucket_size)
    between = local * split.between_nodes * elements
    share = elements / local
    work = share * (1 + 1 / nodes) / codec.encode + 2 * share / codec.decode
    inside = world.inside.seconds(split.inside_node * elements) if local > 1 else 0.0
    outside = world.network.seconds(between) if nodes > 1 else 0.0
    latency = 2 * (local - 1) * world.inside.latency + 2 * (nodes - 1) * world.network.latency
    sent = (split.between_nodes + split.inside_node) * elements
    return Cost(sent, between, inside + outside, latency * messages, work, messages)


def messages_of(elements: int, fusion_elements: int) -> int:
    """Return in how many fusion groups ``elements`` coordinates travel."""
    return max(1, math.ceil(elements / fusion_elements))


def _ring(world: World, sent: float, hops: int, codec_seconds: float, messages: int) -> Cost:
    """Return the cost of rings in which each rank sends ``sent`` bytes: of each node, one neighbour is elsewhere.

    Args:
        world: who takes part.
        sent: bytes of each rank, in all messages.
        hops: of each message.
        codec_seconds: of each rank.
        messages: one after another.
    """
    outside = world.network.seconds(sent) if world.nodes > 1 else 0.0
    inside = world.inside.seconds(sent) if world.ranks_per_node > 1 else 0.0
    slowest = world.network if world.nodes > 1 else world.inside
    latency = hops * messages * slowest.latency
    return Cost(sent, sent if world.nodes > 1 else 0.0, max(outside, inside), latency, codec_seconds, messages)
