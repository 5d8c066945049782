"""Reduce-scatter: each rank gets the sum of one chunk. One quantised hop, bytes that do not grow with the ranks."""

from __future__ import annotations

from alq_hvd.codec.base import B, V
from alq_hvd.exchange.base import Exchange, Task


def reduce_scatter(values: V, task: Task[V, B]) -> Exchange[V]:
    """Sum this rank's chunk of ``values`` over the ranks with one quantised hop.

    1. Encode each of the n equal chunks of the values into a record of its own. 2. All-to-all: chunk r goes to rank r.
    3. Decode and add the records of the own chunk in rank order.

    It decodes into the values of one chunk, and not of all: for front ends whose host wants no more, as FSDP.

    All ranks must agree on: the task, but for its rank; the number of values, which the ranks divide.

    Sends (n - 1)/n of a record a rank.
    """
    rank, size = task.communicator.rank, task.communicator.size
    chunk, hop = len(values) // size, task.hop(0, values)
    chunks = [(start, start + chunk) for start in range(0, size * chunk, chunk)]
    records = [hop.encode(*each) for each in chunks]
    task.ledger.sent(sum(map(len, records)) - len(records[rank]))
    pending = task.carrier.alltoall(records, f"{task.name}.shot0", alike=True)
    for each in chunks:  # which have buckets of their own
        hop.observe(*each)
    received = yield pending

    def decode(scale: float, out: V) -> None:
        task.decode_sum(0, received, chunk, range(size), scale, out)

    return decode
