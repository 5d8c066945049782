"""Measure the GPU codec beside a copy on the same device, with eager PyTorch as the baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from alq_hvd import backends
from alq_hvd.cli import torch_eager
from alq_hvd.cli.codec_rates import KEY, SLOW_ELEMENTS, Rate, levels_of
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.codec.cuda_device import CudaDevice
from alq_hvd.config import QuantiserConfig
from alq_hvd.errors import BackendUnavailable
from alq_hvd.wire import RecordLayout, Stamp

RANKS = (1, 4, 8)
CALLS = 10
"""Calls between two events: launches overlap, as they do in training."""


def measure_cuda(bits: Sequence[int], elements: int, bucket_size: int, repeats: int) -> list[Rate]:
    """Return the rates of the GPU codec and of eager PyTorch on the current device.

    Raises:
        BackendUnavailable: when torch, cupy or a device is missing.
    """
    torch = backends.torch()
    if not torch.cuda.is_available():
        raise BackendUnavailable("torch finds no CUDA device: run on a machine with a GPU, or pass --device cpu")
    codec = CudaCodec(CudaDevice(torch.cuda.current_device()))
    host = np.random.default_rng(0).standard_normal(elements, dtype=np.float32) * np.float32(1e-3)
    values = torch.from_numpy(host).cuda()
    target = torch.empty_like(values)
    copy = elements / _seconds(lambda: target.copy_(values), repeats)
    rates = []
    for width in bits:
        for operation, ranks, work in _operations(codec, values, width, bucket_size):
            rates.append(Rate("cuda", operation, width, ranks, elements, elements / _seconds(work, repeats), copy))
        slow = host[: min(elements, 16 * SLOW_ELEMENTS)]
        for operation, ranks, work in torch_eager.operations(slow, levels_of(width), bucket_size, RANKS, "cuda"):
            rates.append(
                Rate("torch-eager", operation, width, ranks, len(slow), len(slow) / _seconds(work, repeats), copy)
            )
    codec.raise_for_damage()
    best = max(copy, elements / _seconds(lambda: target.copy_(values), repeats))
    return [replace(rate, memcpy_elements_per_second=best) for rate in rates]


def _operations(
    codec: CudaCodec, values: object, bits: int, bucket_size: int
) -> Iterator[tuple[str, int, Callable[[], object]]]:
    torch = backends.torch()
    elements = int(values.numel())  # type: ignore[attr-defined]
    levels = levels_of(bits)
    layout = RecordLayout(elements, QuantiserConfig(bits, bucket_size))
    yield "encode", 1, lambda: codec.encode(values, layout, levels, KEY, Stamp(levels.digest, 0, 0))
    out = torch.empty(elements, device="cuda")
    for ranks in RANKS:
        stamps = [Stamp(levels.digest, 0, sender) for sender in range(ranks)]
        records = [codec.encode(values, layout, levels, KEY, stamp) for stamp in stamps]

        def decode(records: list[object] = records, stamps: list[Stamp] = stamps) -> object:
            return codec.decode_sum(records, layout, levels, stamps, 1.0, out)

        yield "decode_sum", ranks, decode


def _seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the seconds of one call, the best of ``repeats`` measurements by events on the current stream."""
    torch = backends.torch()
    work()
    best = float("inf")
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(CALLS):
            work()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1e3 / CALLS)
    return best
