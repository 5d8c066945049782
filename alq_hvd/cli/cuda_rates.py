"""Measure the GPU codec beside a copy on the same device, with eager PyTorch as the baseline.

The device's time is that between two events of a stream which has work enough before the first of them that the host is
ahead when it comes; the host's time to start a call is measured at the same time, and reported apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from alq_hvd import backends
from alq_hvd.cli import torch_eager
from alq_hvd.cli.codec_rates import KEY, SLOW_ELEMENTS, TOGETHER, Rate, levels_by_width, levels_of
from alq_hvd.cli.counted_device import CountedDevice
from alq_hvd.cli.resnet50 import resnet50_shapes
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.codec.cuda_device import CudaDevice, Device, Tensor
from alq_hvd.codec.device_arrays import Parts
from alq_hvd.errors import BackendUnavailable
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels import MAXIMUM_BITS
from alq_hvd.quantiser.record import RecordLayout, Stamp

RANKS = (1, 4, 8)
RECODED_RANKS = 4
CALLS = 10
"""Calls between two events: launches overlap, as they do in training."""
AHEAD_CYCLES = 20_000_000
"""For which the device is busy before the first event: some 10 milliseconds, more than the host takes for CALLS."""
OTHER_BUCKETS = (512, 1000)
"""Bucket sizes that go through shared memory in one reading, and through device memory in two."""
Work = Callable[[], object]
Seconds = Callable[[Work], tuple[float, float]]
"""Tells how long one call takes on the device, and how long the host takes to start it."""


def measure_cuda(bits: Sequence[int], elements: int, bucket_size: int, repeats: int) -> list[Rate]:
    """Return the rates of the GPU codec and of eager PyTorch on the current device.

    Raises:
        BackendUnavailable: when torch, cupy or a device is missing.
    """
    torch = backends.torch()
    if not torch.cuda.is_available():
        raise BackendUnavailable("torch finds no CUDA device: run on a machine with a GPU, or pass --device cpu")
    host = np.random.default_rng(0).standard_normal(elements, dtype=np.float32) * np.float32(1e-3)
    values = torch.from_numpy(host).cuda()
    target = torch.empty_like(values)

    def seconds(work: Work) -> tuple[float, float]:
        return _seconds(work, repeats)

    copy = elements / seconds(lambda: target.copy_(values))[0]
    rates = device_rates(CudaDevice(torch.cuda.current_device()), values, bits, bucket_size, seconds)
    slow = host[: min(elements, 16 * SLOW_ELEMENTS)]
    for width in bits:
        for operation, ranks, work in torch_eager.operations(slow, levels_of(width), bucket_size, RANKS, "cuda"):
            rates.append(Rate("torch-eager", operation, width, ranks, len(slow), len(slow) / seconds(work)[0]))
    best = max(copy, elements / seconds(lambda: target.copy_(values))[0])
    return [replace(rate, memcpy_elements_per_second=best) for rate in rates]


def device_rates(device: Device, values: Any, bits: Sequence[int], bucket_size: int, seconds: Seconds) -> list[Rate]:
    """Return the rates of the codec on ``device``, without that of the copy.

    Args:
        device: where ``values`` are.
        values: the gradient, a float32 tensor.
        bits: widths of codes.
        bucket_size: coordinates of a bucket.
        seconds: tells how long one call of what it is given takes on the device and on the host.
    """
    torch = backends.torch()
    counted = CountedDevice(device)
    codec = CudaCodec(counted)
    torch_types = {name: getattr(torch, name) for name in ("float16", "bfloat16")}
    model = [torch.full(shape, 1e-3, device=device.name).view(-1) for shape in resnet50_shapes()]
    rates = []

    def measure(parts: Sequence[Any], config: QuantiserConfig, ranks: Sequence[int], dtype: str = "float32") -> None:
        elements = sum(int(part.numel()) for part in parts)
        for operation, records, work in _operations(codec, parts, config, ranks):
            taken, host = seconds(work)
            rates.append(
                Rate(
                    *("cuda", operation, int(config.budget or config.bits), records, elements, elements / taken),
                    adaptive=config.budget is not None,
                    bucket_size=config.bucket_size if config.bucket_size != bucket_size else 0,
                    host_microseconds=1e6 * host,
                    rotate=config.rotate,
                    rounding=config.rounding,
                    dtype=dtype,
                    tensors=len(parts),
                    launches=counted.launches_of(work),
                )
            )

    for width in bits:
        plain = QuantiserConfig(width, bucket_size)
        rotated, eden = replace(plain, rotate=True), replace(plain, rotate=True, rounding="nearest")
        for config in (plain, rotated, eden):
            measure([values], config, RANKS)
        for config in (plain, eden):
            measure([values], replace(config, bits=MAXIMUM_BITS, budget=width), RANKS)
        for name, dtype in torch_types.items():
            measure([values.to(dtype)], plain, (1,), name)
        for config in (plain, rotated):
            measure(model, config, ())
        for size in OTHER_BUCKETS:
            measure([values], replace(plain, bucket_size=size), (1,))
    codec.raise_for_damage()
    return rates


def _operations(
    codec: CudaCodec, parts: Sequence[Any], config: QuantiserConfig, ranks: Sequence[int]
) -> Iterator[tuple[str, int, Work]]:
    """Yield encode, decode_sum of each of ``ranks`` records and, where those of a two-shot are among them, recode.

    Where many records are added, which is measured for float32 alone, encode is measured with a residual, too, and as
    one of ranks that round together, and decode_sum of a dithered record.
    """
    levels = levels_of(config.bits) if config.budget is None else levels_by_width()
    elements = sum(int(part.numel()) for part in parts)
    layout, stamp = RecordLayout(elements, config), Stamp(levels.digest, 0, 0)
    yield "encode", 1, lambda: codec.encode(parts, layout, levels, KEY, stamp)
    out = [backends.torch().empty_like(part) for part in parts]
    if len(ranks) > 1:
        residual, calls = codec.arrays.zeros(elements), count()

        def feedback() -> object:
            if next(calls) % CALLS == 0:  # what a record of 2 bits loses grows from call to call
                residual.zero_()
            return codec.encode(parts, layout, levels, KEY, stamp, residual)

        yield "feedback", 1, feedback
    if len(ranks) > 1 and config.rounding == "stochastic":
        for name, key in TOGETHER.items():
            yield name, 1, partial(codec.encode, parts, layout, levels, key, stamp)
        dithered = RecordLayout(elements, replace(config, dither=True))
        record = codec.encode(parts, dithered, levels, KEY, stamp)
        yield "decode_sum/dithered", 1, lambda: codec.decode_sum([record], dithered, levels, [stamp], 1.0, out)
    for added in ranks:
        stamps = [Stamp(levels.digest, 0, sender) for sender in range(added)]
        # Signs of their own where ranks have them: that is what costs EDEN's sums more than others.
        keys = [replace(KEY, own_signs=KEY.own_signs._replace(second=each.sender)) for each in stamps]
        records = [codec.encode(parts, layout, levels, *pair) for pair in zip(keys, stamps, strict=True)]

        def decode(records: list[Tensor] = records, stamps: list[Stamp] = stamps) -> object:
            return codec.decode_sum(records, layout, levels, stamps, 1.0, out)

        def recode(records: list[Tensor] = records, stamps: list[Stamp] = stamps) -> object:
            return codec.recode(records, layout, levels, stamps, Parts(tuple(out)), layout, levels, KEY, stamp)

        yield "decode_sum", added, decode
        if added == RECODED_RANKS:
            yield "recode", added, recode


def _seconds(work: Work, repeats: int) -> tuple[float, float]:
    """Return the seconds of one call on the current stream and on the host, the best of ``repeats`` measurements."""
    torch = backends.torch()
    work()
    best = host = float("inf")
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(AHEAD_CYCLES)
        start.record()
        begun = time.perf_counter()
        for _ in range(CALLS):
            work()
        host = min(host, (time.perf_counter() - begun) / CALLS)
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1e3 / CALLS)
    return best, host
