"""All-gather: every rank's record goes to every rank. Fewest collectives, bytes that grow with the number of ranks."""

from __future__ import annotations

from alq_hvd.codec.base import FloatArray
from alq_hvd.codec.keys import stream_key
from alq_hvd.exchange.base import Exchange, Task
from alq_hvd.wire import RecordLayout, Stamp


def allgather(values: FloatArray, task: Task) -> Exchange:
    """Sum ``values`` over the ranks with one quantised hop.

    1. Encode this rank's gradient. 2. All-gather the records. 3. Decode and add them in rank order, so that every rank
    gets the same bits.

    Sends (n - 1) records a rank.
    """
    communicator, size = task.communicator, task.communicator.size
    layout = RecordLayout(len(values), task.config)
    stamps = [Stamp(task.levels.digest, task.step % 2**32, rank) for rank in range(size)]
    key = stream_key(seed=task.seed, step=task.step, rank=communicator.rank, group=task.group, shot=0)
    with task.ledger.timed("encode"):
        record = task.codec.encode(values, layout, task.levels, key, stamps[communicator.rank])
    task.ledger.sent((size - 1) * layout.record_bytes)
    records = yield communicator.allgather(record, task.name)

    def decode(scale: float) -> FloatArray:
        return task.codec.decode_sum(records, layout, task.levels, stamps, scale)

    return decode
