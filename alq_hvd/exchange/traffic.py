"""How many bytes a rank sends for each coordinate, by exchange; headers and padding are left out.

With n ranks, a code of b bits and buckets of d coordinates, a coordinate costs c(b) = b/8 + 4/d bytes a hop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alq_hvd.accumulation.plan import plan_inside_node
from alq_hvd.accumulation.types import TYPES

NORM_BYTES = 4


def code_bytes(bits: float, bucket_size: int) -> float:
    """Return c = b/8 + 4/d: a packed code and its share of the bucket's float32 norm."""
    return bits / 8 + NORM_BYTES / bucket_size


def ring_allreduce(ranks: int, bytes_per_element: float) -> float:
    """Return 2 (n-1)/n of the element's bytes: what NCCL, MPI and Gloo send for large tensors."""
    return 2 * (ranks - 1) / ranks * bytes_per_element


def allgather(ranks: int, bits: Sequence[float], bucket_size: int) -> float:
    """Return (n-1) c(b): every record goes to every rank."""
    return (ranks - 1) * code_bytes(bits[0], bucket_size)


def two_shot(ranks: int, bits: Sequence[float], bucket_size: int) -> float:
    """Return (n-1)/n (c(b1) + c(b2)): all-to-all of chunks, then all-gather of their sums."""
    return (ranks - 1) / ranks * (code_bytes(bits[0], bucket_size) + code_bytes(bits[1], bucket_size))


@dataclass(frozen=True, slots=True)
class Split:
    """Tell bytes that leave the node from those that do not, per coordinate and rank."""

    between_nodes: float
    inside_node: float


def hierarchical(nodes: int, ranks_per_node: int, bits: Sequence[float], bucket_size: int) -> Split:
    """Return what a rank sends when nodes add up first, and each rank exchanges its share between nodes.

    1. Reduce-scatter inside the node: (L-1)/L of the bytes of the type planned for its sum, 2 or 4. 2. Two-shot of 1/L
    of the coordinates between nodes. 3. All-gather inside the node: (L-1)/L of 4 bytes.
    """
    summed = TYPES[plan_inside_node(ranks_per_node, bits[0], bucket_size).dtype].bytes
    inside = (ranks_per_node - 1) / ranks_per_node * (summed + 4)
    return Split(two_shot(nodes, bits, bucket_size) / ranks_per_node, inside)
