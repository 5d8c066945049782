"""Every exchange there is: what it is called, what it needs, what it sends, and how it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alq_hvd.accumulation.types import FloatType
from alq_hvd.communicator.nodes import Nodes
from alq_hvd.errors import ConfigurationError
from alq_hvd.exchange import traffic
from alq_hvd.exchange.allgather import allgather
from alq_hvd.exchange.base import ExchangeFunction
from alq_hvd.exchange.hierarchical import Hierarchical
from alq_hvd.exchange.reduce_scatter import reduce_scatter
from alq_hvd.exchange.two_shot import two_shot

AUTO = "auto"
"""Not an exchange: the one that suits the world."""
Make = Callable[[Nodes, FloatType], ExchangeFunction]


@dataclass(frozen=True, slots=True)
class ExchangeKind:
    """Describe one exchange.

    Attributes:
        name: of the option ``exchange``.
        shots: how many times it quantises.
        collectives: how many of a fusion group follow each other.
        function: sums a fusion group; ``None`` where that depends on nodes.
        make: place in the grid of nodes, type of sums inside a node -> what sums a fusion group; ``None`` where nodes
            do not matter.
        traffic: ranks, bits of each shot, bucket size -> bytes that a rank sends for each coordinate; ``None`` where
            that depends on nodes.
    """

    name: str
    shots: int
    collectives: int
    function: ExchangeFunction | None = None
    make: Make | None = None
    traffic: Callable[[int, Sequence[float], int], float] | None = None

    @property
    def needs_nodes(self) -> bool:
        """Return whether ranks must know which of them share a node."""
        return self.make is not None


KINDS = {
    kind.name: kind
    for kind in (
        ExchangeKind("allgather", shots=1, collectives=1, function=allgather, traffic=traffic.allgather),
        ExchangeKind("two_shot", shots=2, collectives=2, function=two_shot, traffic=traffic.two_shot),
        ExchangeKind("hierarchical", shots=2, collectives=4, make=Hierarchical),
    )
}
REDUCE_SCATTER = ExchangeKind("reduce_scatter", shots=1, collectives=1, function=reduce_scatter)
"""Not to be chosen by name: it leaves each rank with a chunk of the sum, which only a front end can ask for."""
NAMES = (AUTO, *KINDS)
MOST_SHOTS = max(kind.shots for kind in KINDS.values())
MOST_COLLECTIVES = max(kind.collectives for kind in KINDS.values())
PATIENCE = 2.0
"""All-gather is kept until it sends more than this many times the bytes of two-shot."""


def kind_of(name: str) -> ExchangeKind | None:
    """Return the exchange ``name``; ``None`` for ``"auto"``.

    Raises:
        ConfigurationError: there is none of that name.
    """
    if name not in NAMES:
        raise ConfigurationError(f"exchange: expected one of {', '.join(NAMES)}, got {name!r}")
    return KINDS.get(name)


def choose(name: str, ranks: int, bits: Sequence[float], bucket_size: int) -> ExchangeKind:
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
    named = kind_of(name)
    if named is not None:
        return named
    long, short = (made(ranks, bits, bucket_size) for made in (traffic.allgather, traffic.two_shot))
    return KINDS["two_shot" if long > PATIENCE * short * (1 + 1e-9) else "allgather"]
