"""What a user would write with eager PyTorch: the baseline of ``alq-hvd bench codec``. It does not even pack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from alq_hvd import backends
from alq_hvd.codec.base import FloatArray
from alq_hvd.quantiser.levels import Levels


def operations(
    values: FloatArray, levels: Levels, bucket_size: int, ranks: Sequence[int], device: str
) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """Yield (operation, ranks, work) for encode and for decode_sum over each number of ranks.

    Codes are uint8, one byte an element. The length is cut to whole buckets.
    """
    torch = backends.torch()
    whole = max(len(values) // bucket_size, 1) * bucket_size
    gradient = torch.zeros(whole, device=device)
    gradient[: len(values)] = torch.from_numpy(values[:whole]).to(device)
    table = torch.tensor(levels.values, device=device)
    inner = table[1:].contiguous()
    gaps = torch.diff(table, append=table[-1:] + 1)

    def encode() -> Any:
        rows = gradient.view(-1, bucket_size)
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        normalised = rows / norms
        lower = torch.bucketize(normalised, inner, right=True)
        up = (normalised - table[lower]) / gaps[lower] > torch.rand_like(normalised)
        return norms, (lower + up).to(torch.uint8)

    norms, codes = encode()

    def decode(count: int) -> Any:
        total = torch.zeros_like(norms * codes)
        for _ in range(count):
            total += norms * table[codes.int()]
        return total

    yield "encode", 1, encode
    for count in ranks:
        yield "decode_sum", count, partial(decode, count)


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Let PyTorch use ``threads`` threads inside the block."""
    torch = backends.torch()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
