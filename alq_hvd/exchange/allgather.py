"""All-gather: every rank's record goes to every rank. Fewest collectives, bytes that grow with the number of ranks."""

from __future__ import annotations

from alq_hvd.codec.base import B, V
from alq_hvd.exchange.base import Exchange, Task


def allgather(values: V, task: Task[V, B]) -> Exchange[V]:
    """Sum ``values`` over the ranks with one quantised hop.

    1. Encode this rank's gradient. 2. All-gather the records. 3. Decode and add them in rank order, so that every rank
    gets the same bits.

    All ranks must agree on: the task, but for its rank; the number of values.

    Sends (n - 1) records a rank.
    """
    size, elements = task.communicator.size, len(values)
    hop = task.hop(0, values)
    record = hop.encode()
    task.ledger.sent((size - 1) * len(record))
    pending = task.carrier.allgather(record, task.name)
    hop.observe()
    records = yield pending

    def decode(scale: float, out: V) -> None:
        task.decode_sum(0, records, elements, range(size), scale, out)

    return decode
