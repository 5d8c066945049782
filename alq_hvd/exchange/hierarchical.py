"""Hierarchical: nodes add up exactly inside, and only nodes exchange quantised sums, each rank its own share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from alq_hvd.codec.base import FloatArray
from alq_hvd.communicator.base import Payload
from alq_hvd.communicator.nodes import Nodes
from alq_hvd.exchange.base import Exchange, Task
from alq_hvd.exchange.chunks import deal
from alq_hvd.exchange.two_shot import two_shot


@dataclass(frozen=True, slots=True)
class Hierarchical:
    """Sum over the ranks with two quantised hops between nodes and none inside; see ``ExchangeFunction``.

    Attributes:
        nodes: this rank's place.
    """

    nodes: Nodes

    def __call__(self, values: FloatArray, task: Task) -> Exchange:
        """Sum ``values`` over the ranks.

        1. Cut the group into one share a rank of the node, on bucket boundaries. All-to-all inside the node, float32.
        2. Add up the own share in order of the ranks inside: the node's exact sum.
        3. Two-shot of that share among the ranks with this place on every node; see ``two_shot``.
        4. All-gather of the shares inside the node, float32, so that every rank gets the same bits.

        All ranks must agree on: the task, but for its rank; the number of values; the nodes.

        Sends 2 (N - 1)/N of a record a node between N nodes. The number of quantised contributions is N.
        """
        inside, elements = self.nodes.inside, len(values)
        shares = deal(elements, task.shots[0].config.bucket_size, inside.size)
        own = shares[inside.rank]
        parts = [_bytes_of(values[share.start : share.stop]) for share in shares]
        task.ledger.sent(4 * (elements - own.elements))
        received = yield inside.alltoall(parts, f"{task.name}.inside")
        share_of_node = np.zeros(own.elements, dtype=np.float32)
        for part in received:
            share_of_node += part.view(np.float32)

        between = replace(task, communicator=self.nodes.across, first_element=task.first_element + own.start)
        decode = yield from two_shot(share_of_node, between)
        with task.ledger.timed("decode"):
            total = decode(1.0)
        longest = max(share.elements for share in shares)
        padded = np.zeros(longest, dtype=np.float32)
        padded[: own.elements] = total
        task.ledger.sent((inside.size - 1) * padded.nbytes)
        spread = yield inside.allgather(_bytes_of(padded), f"{task.name}.spread")

        def decoded(scale: float) -> FloatArray:
            result = np.empty(elements, dtype=np.float32)
            for part, share in zip(spread, shares, strict=True):
                result[share.start : share.stop] = part.view(np.float32)[: share.elements]
            result *= np.float32(scale)
            return result

        return decoded


def _bytes_of(values: FloatArray) -> Payload:
    return np.ascontiguousarray(values).view(np.uint8)
