"""Two-shot: every rank sums one chunk and sends the sum to all. Bytes that do not grow with the number of ranks."""

from __future__ import annotations

from alq_hvd.codec.base import Bytes, Values
from alq_hvd.exchange.base import Exchange, Task
from alq_hvd.exchange.chunks import Chunk, deal


def two_shot(values: Values, task: Task) -> Exchange:
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
    records = [_encode(task, 0, values[chunk.start : chunk.stop], chunk) for chunk in chunks]
    task.ledger.sent(sum(map(len, records)) - len(records[rank]))
    pending = task.carrier.alltoall(records, f"{task.name}.shot0")
    task.observe(0, values, task.key(0))
    received = yield pending

    own = chunks[rank]
    total = arrays.room_for_sum(values[own.start : own.stop])
    if own.elements:
        with task.ledger.timed("decode"):
            task.decode_sum(0, received, own.elements, range(size), 1.0, total)
    record = _encode(task, 1, total, own)
    # Chunks differ by a bucket at most. All-gather wants equal lengths: zeros fill up the shorter records.
    lengths = [task.layout(1, chunk.elements).record_bytes if chunk.elements else 0 for chunk in chunks]
    padded = arrays.padded(record, max(lengths))
    task.ledger.sent((size - 1) * len(padded))
    pending = task.carrier.allgather(padded, f"{task.name}.shot1")
    if own.elements:
        task.observe(1, total, task.key(1, own.start))
    sums = yield pending

    def decode(scale: float, out: Values) -> None:
        for sender, (chunk, length) in enumerate(zip(chunks, lengths, strict=True)):
            if chunk.elements:
                part = out[chunk.start : chunk.stop]
                task.decode_sum(1, [sums[sender][:length]], chunk.elements, [sender], scale, part)

    return decode


def _encode(task: Task, shot: int, values: Values, chunk: Chunk) -> Bytes:
    """Return the record of a chunk; no byte for one without elements."""
    return task.encode(shot, values, chunk.start) if chunk.elements else task.codec.arrays.as_bytes(values)
