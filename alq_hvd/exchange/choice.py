"""Which exchange a compression uses: the one named, or the one that suits the number of ranks."""

from __future__ import annotations

from collections.abc import Sequence

from alq_hvd.exchange.allgather import allgather
from alq_hvd.exchange.base import ExchangeFunction
from alq_hvd.exchange.two_shot import two_shot
from alq_hvd.planning import traffic

AUTO = "auto"
HIERARCHICAL = "hierarchical"
FLAT: dict[str, ExchangeFunction] = {"allgather": allgather, "two_shot": two_shot}
"""The exchanges that need not know nodes."""
SHOTS = {"allgather": 1, "two_shot": 2, HIERARCHICAL: 2}
"""How many times each exchange quantises."""
COLLECTIVES = {"allgather": 1, "two_shot": 2, HIERARCHICAL: 4}
"""How many collectives each exchange starts one after the other."""
NAMES = (AUTO, *SHOTS)
PATIENCE = 2.0
"""All-gather is kept until it sends more than this many times the bytes of two-shot."""


def choose(name: str, ranks: int, bits: Sequence[int], bucket_size: int) -> str:
    """Return which exchange is meant by ``name``; the same on every rank that shares the arguments.

    ``"auto"`` weighs bytes here, until measured times decide (``break_even``): two-shot where it sends less than half
    of what all-gather sends, that is from 5 ranks on at equal widths, from 6 on with 4 and 8 bits. For fewer, the
    second hop would cost more than it brings: another collective's latency, and a quantisation error that, unlike the
    first one's, does not shrink with the number of ranks.

    Args:
        name: one of ``NAMES``.
        ranks: in the process set.
        bits: width of the codes in each shot.
        bucket_size: coordinates that share a norm.
    """
    if name != AUTO:
        return name
    long = traffic.allgather(ranks, bits, bucket_size)
    short = traffic.two_shot(ranks, bits, bucket_size)
    return "two_shot" if long > PATIENCE * short * (1 + 1e-9) else "allgather"
