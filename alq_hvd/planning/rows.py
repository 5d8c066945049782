"""Every exchange at every width in one world: what it sends, how long it takes, how far off the mean is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from alq_hvd.accumulation.plan import plan_accumulator, plan_inside_node
from alq_hvd.planning import cost
from alq_hvd.planning.cost import CodecSpeed, Cost, World
from alq_hvd.planning.variance import mean_error

STOCK = {"fp32": 4, "fp16": 2}
"""Plain Horovod, and the bytes of an element."""


@dataclass(frozen=True, slots=True)
class Row:
    """Hold one way to sum gradients.

    Attributes:
        exchange: ``"fp32"`` and ``"fp16"`` are plain Horovod.
        bits: width of a code, or the mean of its widths, in each shot; empty for plain Horovod.
        cost: of one step.
        mean_error: E|error|^2 / |mean|^2 of the mean, from quantisation alone.
        accumulator: type in which the sum is kept.
        cheapest_accumulator: the cheapest type that would do, and why not a cheaper one.
    """

    exchange: str
    bits: tuple[float, ...]
    cost: Cost
    mean_error: float
    accumulator: str
    cheapest_accumulator: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Workload:
    """Say what is exchanged in a step.

    Attributes:
        elements: coordinates.
        bucket_size: coordinates that share a norm.
        fusion_elements: coordinates that travel together.
        coherence: see ``mean_error``.
    """

    elements: int
    bucket_size: int
    fusion_elements: int
    coherence: float = 0.0


def rows(
    world: World,
    workload: Workload,
    widths: Iterable[tuple[float, float]],
    relative_variance: Mapping[tuple[int, float], float],
    codec: CodecSpeed,
) -> list[Row]:
    """Return plain Horovod's rows, then those of every exchange at every width.

    Args:
        world: the ranks and their links.
        workload: what is exchanged.
        widths: pairs of the first and the second shot's width.
        relative_variance: (shot, bits) -> E|Q(v) - v|^2 / |v|^2 of a vector quantised there.
        codec: its speed on a rank.
    """
    messages = cost.messages_of(workload.elements, workload.fusion_elements)
    made = [
        _stock(name, width, cost.allreduce(world, workload.elements, width, messages), world)
        for name, width in STOCK.items()
    ]
    seen_allgather: set[float] = set()
    for bits in widths:
        first, second = relative_variance[0, bits[0]], relative_variance[1, bits[1]]
        size = (workload.elements, bits, workload.bucket_size, codec, messages)
        if bits[0] not in seen_allgather:
            seen_allgather.add(bits[0])
            made.append(_ours("allgather", bits[:1], cost.allgather(world, *size), world, workload, (first, 0.0)))
        made.append(_ours("two_shot", bits, cost.two_shot(world, *size), world, workload, (first, second)))
        if world.ranks_per_node > 1 and world.nodes > 1:
            made.append(_ours("hierarchical", bits, cost.hierarchical(world, *size), world, workload, (first, second)))
    return made


def recommend(candidates: Sequence[Row], tolerated_error: float) -> Row:
    """Return the fastest row whose mean is off by no more than ``tolerated_error``, plain Horovod included."""
    return min((row for row in candidates if row.mean_error <= tolerated_error), key=lambda row: row.cost.seconds)


def _stock(name: str, width: int, own: Cost, world: World) -> Row:
    """Return plain Horovod's row; a half-precision ring adds in half precision."""
    needed = plan_accumulator(world.ranks, allowed=("fp16", "fp32"))
    accumulator = "fp32" if width == 4 else "fp16"
    return Row(name, (), own, 0.0, accumulator, (needed.dtype, needed.reason))


def _ours(
    name: str, bits: tuple[float, ...], own: Cost, world: World, workload: Workload, variances: tuple[float, float]
) -> Row:
    """Return the row of an exchange: sums of what is decoded are float32, those inside a node what is planned."""
    by_node = name == "hierarchical"
    contributions = world.nodes if by_node else world.ranks
    coherence = workload.coherence
    if by_node:  # a node's exact mean has less noise than a rank's gradient
        inside = world.ranks_per_node
        coherence = coherence / (coherence + (1 - coherence) / inside) if coherence else 0.0
    error = mean_error(*variances, contributions, coherence)
    if by_node:
        needed = plan_inside_node(world.ranks_per_node, bits[0], workload.bucket_size)
    else:
        needed = plan_accumulator(world.ranks, relative_variance=variances[0])
    return Row(name, bits, own, error, needed.dtype if by_node else "fp32", (needed.dtype, needed.reason))
