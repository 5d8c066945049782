"""Two-shot: every rank sums one chunk and sends the sum to all. Bytes that do not grow with the number of ranks."""

from __future__ import annotations

from collections.abc import Sequence

from alq_hvd.codec.base import B, V
from alq_hvd.exchange.base import Exchange, Hop, Task
from alq_hvd.exchange.chunks import Chunk, deal


def two_shot(values: V, task: Task[V, B]) -> Exchange[V]:
    """Sum ``values`` over the ranks with two quantised hops.

    1. Cut the group into one chunk a rank, on bucket boundaries, and encode each into a record of its own.
    2. All-to-all: chunk r goes to rank r.
    3. Decode and add the records of the own chunk in rank order.
    4. Encode that sum with the levels and the width of the second shot.
    5. All-gather the sums; every rank decodes all of them, so that every rank gets the same bits.

    Chunks without elements (more ranks than buckets) are not encoded and carry no byte.

    All ranks must agree on: the task, but for its rank; the number of values.

    Sends 2 (n - 1)/n of a record a rank, whatever n.
    """
    arrays, rank, size = task.codec.arrays, task.communicator.rank, task.communicator.size
    elements, unit = len(values), task.shots[0].config.bucket_size
    chunks = deal(elements, unit, size)
    hop, nothing = task.hop(0, values), arrays.as_bytes(values[:0])
    records = [hop.encode(chunk.start, chunk.stop) if chunk.elements else nothing for chunk in chunks]
    task.ledger.sent(sum(map(len, records)) - len(records[rank]))
    pending = task.carrier.alltoall(records, f"{task.name}.shot0", alike=True)
    hop.observe()
    received = yield pending

    own = chunks[rank]
    record, again = _recode(task, received, own, values) if own.elements else (nothing, None)
    # Chunks differ by a bucket at most. All-gather wants equal lengths: zeros fill up the shorter records.
    lengths = [task.layout(1, chunk.elements).record_bytes if chunk.elements else 0 for chunk in chunks]
    padded = arrays.padded(record, max(lengths))
    task.ledger.sent((size - 1) * len(padded))
    pending = task.carrier.allgather(padded, f"{task.name}.shot1")
    if again is not None:
        again.observe()
    sums = yield pending

    def decode(scale: float, out: V) -> None:
        for sender, (chunk, length) in enumerate(zip(chunks, lengths, strict=True)):
            if chunk.elements:
                part = out[chunk.start : chunk.stop]
                task.decode_sum(1, [sums[sender][:length]], chunk.elements, [sender], scale, part)

    return decode


def _recode(task: Task[V, B], records: Sequence[B], own: Chunk, values: V) -> tuple[B, Hop[V, B] | None]:
    """Return the record of the sum of ``records``, and the sum itself where it is observed or has a residual.

    Elsewhere the sum need not exist anywhere as a whole: a device adds, and encodes again, without leaving the chip.
    """
    room, senders = values[own.start : own.stop], range(len(records))
    if task.is_unseen(1):
        levels, levels_again = (shot.levels for shot in task.shots)
        layout, again = (task.layout(shot, own.elements) for shot in (0, 1))
        stamps, stamp = [task.stamp(0, sender) for sender in senders], task.stamp(1, task.communicator.rank)
        with task.ledger.timed("encode"):
            key = task.key(1, own.start)
            record = task.codec.recode(records, layout, levels, stamps, room, again, levels_again, key, stamp)
        return record, None
    total = task.codec.arrays.room_for_sum(room)
    with task.ledger.timed("decode"):
        task.decode_sum(0, records, own.elements, senders, 1.0, total)
    hop = task.hop(1, total, own.start)
    return hop.encode(), hop
