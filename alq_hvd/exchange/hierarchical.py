"""Hierarchical: nodes add up unquantised, and only nodes exchange quantised sums, each rank its own share."""

from __future__ import annotations

from dataclasses import dataclass, replace

from alq_hvd.accumulation.types import FP32, FloatType
from alq_hvd.codec.base import B, V
from alq_hvd.communicator.nodes import Nodes
from alq_hvd.exchange.base import Exchange, Task
from alq_hvd.exchange.chunks import deal
from alq_hvd.exchange.two_shot import two_shot


@dataclass(frozen=True, slots=True)
class Hierarchical:
    """Sum over the ranks with two quantised hops between nodes and none inside; see ``ExchangeFunction``.

    Attributes:
        nodes: this rank's place.
        accumulator: in which a node sends and adds up its gradients; the same on every rank.
    """

    nodes: Nodes
    accumulator: FloatType = FP32

    def __call__(self, values: V, task: Task[V, B]) -> Exchange[V]:
        """Sum ``values`` over the ranks.

        1. Cut the group into one share a rank of the node, on bucket boundaries. All-to-all inside the node, in the
           accumulator's type.
        2. Add up the own share in that type, in order of the ranks inside: the node's sum, exact but for its rounding.
        3. Two-shot of that share among the ranks with this place on every node; see ``two_shot``.
        4. All-gather of the shares inside the node, float32, so that every rank gets the same bits.

        All ranks must agree on: the task, but for its rank; the number of values; the nodes; the accumulator.

        Sends 2 (N - 1)/N of a record a node between N nodes. The number of quantised contributions is N.
        """
        arrays, elements = task.codec.arrays, len(values)
        inside, carrier = self.nodes.inside, task.carrier_over(self.nodes.inside)
        shares = deal(elements, task.shots[0].config.bucket_size, inside.size)
        own = shares[inside.rank]
        kind = self.accumulator
        parts = [arrays.as_bytes(values[share.start : share.stop], kind) for share in shares]
        task.ledger.sent(kind.bytes * (elements - own.elements))
        received = yield carrier.alltoall(parts, f"{task.name}.inside", alike=True)
        share_of_node = arrays.room_for_sum(values[own.start : own.stop])
        arrays.add_up(received, share_of_node, kind)

        between = replace(task, communicator=self.nodes.across, first_element=task.first_element + own.start)
        decode = yield from two_shot(share_of_node, between)
        with task.ledger.timed("decode"):
            decode(1.0, share_of_node)
        padded = arrays.padded(arrays.as_bytes(share_of_node), 4 * max(share.elements for share in shares))
        task.ledger.sent((inside.size - 1) * len(padded))
        spread = yield carrier.allgather(padded, f"{task.name}.spread")

        def decoded(scale: float, out: V) -> None:
            for part, share in zip(spread, shares, strict=True):
                arrays.scaled(part[: 4 * share.elements], scale, out[share.start : share.stop])

        return decoded
