"""The ways that the benchmark of exchanges compares, and what ``alq-hvd plan`` predicts for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alq_hvd.planning.cost import CodecSpeed, Cost, Link, World, allgather, allreduce, messages_of, two_shot
from benchmarks.network.hosts import bits_per_second

BUCKET = 1024


def ours(exchange: str, bits: Any, **more: Any) -> dict[str, Any]:
    """Return the options of one way of ours: levels that do not adapt, so that nothing but gradients is sent."""
    return {"method": "qsgdinf", "bits": bits, "bucket_size": BUCKET, "exchange": exchange, "schedule": [], **more}


WAYS: dict[str, dict[str, Any] | None] = {
    "fp32": None,
    "fp32 again": None,
    "fp16": None,
    "allgather 4": ours("allgather", 4),
    "allgather 3": ours("allgather", 3),
    "two_shot 4": ours("two_shot", 4),
    "two_shot 3": ours("two_shot", 3),
    "two_shot 4,8": ours("two_shot", [4, 8]),
    "auto 4": ours("auto", 4),
}
"""``auto`` is what a user gets who chooses nothing: it measures first, and may be plain Horovod. ``fp32 again`` is the
same as ``fp32``: where they differ, it is by chance."""


@dataclass(frozen=True)
class Constants:
    """What a plan must know of a machine.

    Attributes:
        latency: seconds of one hop of a message, software included.
        codec: coordinates a second on each rank, all ranks at work.
    """

    latency: float
    codec: CodecSpeed

    @classmethod
    def measured(cls, ranks: int, elements: int, small_message_seconds: float, phases: dict[str, float]) -> Constants:
        """Return them from one run of two-shot, whose codec encodes and decodes as ``planning.cost.two_shot`` says."""
        encode = elements * (1 + 1 / ranks) / max(phases["encode"], 1e-9)
        decode = 2 * elements / max(phases["decode"], 1e-9)
        return cls(small_message_seconds / max(ranks - 1, 1), CodecSpeed(encode, decode))


DEFAULTS = Constants(25e-6, CodecSpeed(1e9, 1e9))
"""What ``alq-hvd plan`` takes unless told."""


def planned(way: str, ranks: int, rate: str, elements: int, fusion_elements: int, constants: Constants) -> Cost | None:
    """Return what ``alq-hvd plan`` predicts, without headers and padding; ``None`` where the way is not yet chosen."""
    kind, _, widths = way.partition(" ")
    link = Link(bits_per_second(rate) if rate != "none" else float("inf"), constants.latency)
    world, messages = World(ranks, 1, link, link), messages_of(elements, fusion_elements)
    if kind in ("fp32", "fp16"):
        return allreduce(world, elements, 4 if kind == "fp32" else 2)  # Horovod fuses them into one message
    bits = [int(width) for width in widths.split(",")]
    costs = {"allgather": allgather, "two_shot": two_shot}
    if kind not in costs:
        return None
    return costs[kind](world, elements, bits * (3 - len(bits)), BUCKET, constants.codec, messages)
