"""Measure how fast codecs encode and decode, beside a plain copy of the same memory in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from alq_hvd import backends
from alq_hvd.cli import torch_eager
from alq_hvd.codec.base import Codec, FloatArray, Record
from alq_hvd.codec.keys import stream_key
from alq_hvd.codec.native import NativeCodec
from alq_hvd.codec.reference import ReferenceCodec
from alq_hvd.quantiser.config import SMALLEST_BLOCK, QuantiserConfig
from alq_hvd.quantiser.levels import MAXIMUM_BITS, Levels
from alq_hvd.quantiser.levels_by_width import LevelsByWidth
from alq_hvd.quantiser.record import RecordLayout, Stamp

SLOW_ELEMENTS = 1 << 20
"""NumPy and eager PyTorch are timed on at most this many elements: they are the same speed on more."""
SLOW_REPEATS = 3
RANKS = (1, 4)
KEY = stream_key(seed=1, step=0, rank=0, group=0, shot=0)
TOGETHER = {
    f"encode/{ranks}": stream_key(seed=1, step=0, rank=ranks - 2, group=0, shot=0, strata=ranks) for ranks in (32, 31)
}
"""One of several ranks that round together: a power of two, and a prime, which costs a little more."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Say how fast one operation ran.

    Attributes:
        codec: native, cuda, or a baseline: reference (NumPy) or torch-eager (bytes unpacked, unkeyed randomness).
        operation: encode, encode/n (as one of n ranks that round together), feedback (encode with a residual),
            decode_sum, decode_sum/dithered, or recode (the middle of a two-shot).
        bits: of a code.
        ranks: records that one decode_sum or recode added; 1 for the others.
        elements: of the gradient; a decode_sum over n ranks reads n times as many codes.
        elements_per_second: of the gradient, best repetition.
        memcpy_elements_per_second: float32 copied, best repetition of the whole run.
        rotate: buckets were rotated.
        rounding: as the quantiser's; "nearest" is EDEN.
        dtype: of the gradient.
        tensors: that the gradient lay in.
        launches: kernels that one call started, counted; 0 on a CPU.
        threads: of the CPU codec.
        bucket_size: coordinates of a bucket, where it was not the same for the whole run.
        adaptive: widths of blocks differ, and ``bits`` is their mean.
        host_microseconds: that the host took to start one call on a GPU.
    """

    codec: str
    operation: str
    bits: int
    ranks: int
    elements: int
    elements_per_second: float
    memcpy_elements_per_second: float = 0.0
    rotate: bool = False
    rounding: str = "stochastic"
    dtype: str = "float32"
    tensors: int = 1
    launches: int = 0
    threads: int = 1
    bucket_size: int = 0
    host_microseconds: float = 0.0
    adaptive: bool = False

    @property
    def microseconds(self) -> float:
        """Return the time of one call."""
        return 1e6 * self.elements / self.elements_per_second

    @property
    def share_of_memcpy(self) -> float:
        """Return elements a second over those of the copy."""
        return self.elements_per_second / self.memcpy_elements_per_second

    @property
    def share_of_bandwidth(self) -> float:
        """Return bytes moved a second over those of the copy, which moves eight an element.

        A value moves 4 bytes, or 2, a residual 8, and each record b / 8; recode reads and writes records only.
        """
        codes, value = self.bits / 8, 4 if self.dtype == "float32" else 2
        value += 8 if self.operation == "feedback" else 0
        moved = (self.ranks + 1) * codes if self.operation == "recode" else value + self.ranks * codes
        return self.share_of_memcpy * moved / 8


def levels_of(bits: int) -> Levels:
    """Return 2**bits levels that crowd around zero, as fitted ones do."""
    steps = np.linspace(-1, 1, 2**bits)
    return Levels((steps * np.abs(steps)).astype(np.float32))


def levels_by_width() -> LevelsByWidth:
    """Return such a table for each width; each bit leaves a quarter of the error, three of them a tenth."""
    tables = tuple(levels_of(bits) for bits in range(1, MAXIMUM_BITS + 1))
    return LevelsByWidth(1, tables, np.float32(0.1) * np.float32(4.0) ** np.arange(2, 2 - MAXIMUM_BITS, -1))


def measure_cpu(bits: Sequence[int], elements: int, bucket_size: int, repeats: int, threads: int) -> list[Rate]:
    """Return the rates of the native codec and its baselines, one thread each unless ``threads`` says more."""
    values = (np.random.default_rng(0).standard_normal(elements, dtype=np.float32)) * np.float32(1e-3)
    target, residual = np.empty_like(values), np.zeros_like(values)
    copies: list[float] = []

    def rate(
        name: str,
        operation: str,
        width: int,
        ranks: int,
        count: int,
        work: Callable[[], object],
        rotate: bool = False,
        adaptive: bool = False,
    ) -> Rate:
        seconds = []
        for _ in range(repeats if name == "native" else min(repeats, SLOW_REPEATS)):
            copies.append(elements / seconds_of(lambda: np.copyto(target, values)))
            if operation == "feedback":  # what 2 bits lose grows from call to call, and ends in NaN, which is quick
                residual.fill(0)
            seconds.append(seconds_of(work))
        used = 1 if name == "reference" else threads
        return Rate(name, operation, width, ranks, count, count / min(seconds), rotate=rotate, threads=used,
                    adaptive=adaptive)  # fmt: skip

    rates: list[Rate] = []
    slow = values[: min(elements, SLOW_ELEMENTS)]
    native = NativeCodec(threads=threads)
    cut = not SMALLEST_BLOCK % bucket_size or not bucket_size % SMALLEST_BLOCK  # into blocks, as widths demand
    codecs: tuple[tuple[Codec, FloatArray, bool, bool], ...] = (
        (native, values, False, False),
        *([(native, values, False, True)] if cut else []),
        (native, values, True, False),
        *([(native, values, True, True)] if cut else []),
        (ReferenceCodec(), slow, False, False),
    )
    for width in bits:
        for codec, part, rotate, adaptive in codecs:
            config = QuantiserConfig(width, bucket_size, rotate=rotate)
            if adaptive:
                config = replace(config, bits=MAXIMUM_BITS, budget=width)
            for operation, ranks, work in _operations(codec, part, config, residual[: len(part)]):
                rates.append(rate(codec.name, operation, width, ranks, len(part), work, rotate, adaptive))
        if backends.available("torch"):
            with torch_eager.limited_threads(threads):
                for operation, ranks, work in torch_eager.operations(slow, levels_of(width), bucket_size, RANKS, "cpu"):
                    rates.append(rate("torch-eager", operation, width, ranks, len(slow), work))
    rates.sort(key=lambda each: each.rotate)  # what everybody has first
    return [replace(each, memcpy_elements_per_second=max(copies)) for each in rates]


def _operations(
    codec: Codec, values: FloatArray, config: QuantiserConfig, residual: FloatArray
) -> Iterator[tuple[str, int, Callable[[], object]]]:
    levels = levels_of(config.bits) if config.budget is None else levels_by_width()
    layout, stamp = RecordLayout(len(values), config), Stamp(levels.digest, 0, 0)
    yield "encode", 1, lambda: codec.encode(values, layout, levels, KEY, stamp)
    for name, key in TOGETHER.items():
        yield name, 1, partial(codec.encode, values, layout, levels, key, stamp)
    yield "feedback", 1, lambda: codec.encode(values, layout, levels, KEY, stamp, residual)
    record, out = codec.encode(values, layout, levels, KEY, stamp), np.empty_like(values)
    for ranks in RANKS:
        records, stamps = [record.copy() for _ in range(ranks)], [stamp] * ranks

        def decode(records: list[Record] = records, stamps: list[Stamp] = stamps) -> object:
            return codec.decode_sum(records, layout, levels, stamps, 1.0, out)

        yield "decode_sum", ranks, decode


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
