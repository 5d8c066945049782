"""The GPU benchmark, run on the emulated device: its rows and what it counts, not how fast it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from alq_hvd.cli import bench, cuda_rates
from alq_hvd.cli.codec_rates import KEY, Rate, levels_of
from alq_hvd.cli.counted_device import CountedDevice
from alq_hvd.cli.resnet50 import resnet50_shapes
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.record import RecordLayout, Stamp
from tests.support.emulated_device import EmulatedDevice, needs_compiler

pytestmark = [needs_compiler, pytest.mark.timeout(300)]


def once(work: Callable[[], object]) -> tuple[float, float]:
    start = time.perf_counter()
    work()
    taken = time.perf_counter() - start
    return taken, taken / 2


def test_the_parameters_of_a_resnet_50_are_counted() -> None:
    shapes = resnet50_shapes()
    assert len(shapes) == 161
    assert sum(torch.Size(shape).numel() for shape in shapes) == 25_557_032
    assert sum(len(shape) == 4 for shape in shapes) == 53  # convolutions
    assert shapes[0] == (64, 3, 7, 7) and shapes[-2:] == [(1000, 2048), (1000,)]


@pytest.fixture(scope="module")
def rates() -> list[Rate]:
    with pytest.MonkeyPatch.context() as patch:  # the real model takes the emulation an hour
        patch.setattr(cuda_rates, "resnet50_shapes", lambda: [(64, 3, 2, 2), (7,), (1, 30)])
        measured = cuda_rates.device_rates(EmulatedDevice(), torch.randn(3000), [3], 1024, once)
    return [replace(rate, memcpy_elements_per_second=1e9) for rate in measured]


def test_rows_of_the_benchmark(rates: list[Rate]) -> None:
    kinds = [(False, "stochastic"), (True, "stochastic"), (True, "nearest")]
    operations = [("encode", 1), ("feedback", 1), ("recode", 4), *(("decode_sum", count) for count in (1, 4, 8))]
    expected = {(name, ranks, *kind, "float32", 1) for name, ranks in operations for kind in kinds}
    drawn = ("encode/32", "encode/31", "decode_sum/dithered")
    expected |= {(name, 1, rotate, "stochastic", "float32", 1) for name in drawn for rotate in (False, True)}
    for dtype in ("float16", "bfloat16"):
        expected |= {(name, 1, False, "stochastic", dtype, 1) for name in ("encode", "decode_sum")}
    expected |= {("encode", 1, rotate, "stochastic", "float32", 3) for rotate in (False, True)}
    others = [rate for rate in rates if rate.bucket_size]
    assert [(rate.operation, rate.bucket_size) for rate in others] == [
        (name, size) for size in (512, 1000) for name in ("encode", "decode_sum")
    ]
    assert all(rate.host_microseconds == pytest.approx(rate.microseconds / 2) for rate in rates)
    assert [rate.launches for rate in others] == [2, 2, 3, 2]
    adaptive = [rate for rate in rates if rate.adaptive]
    assert {(rate.operation, rate.ranks, rate.rounding) for rate in adaptive} == {
        *((name, ranks, rounding) for name, ranks in operations for rounding in ("stochastic", "nearest")),
        *((name, 1, "stochastic") for name in drawn),
    }
    assert all(rate.bits == 3 for rate in adaptive)
    rates = [rate for rate in rates if not rate.bucket_size and not rate.adaptive]
    rows = [(r.operation, r.ranks, r.rotate, r.rounding, r.dtype, r.tensors) for r in rates]
    assert len(rows) == len(expected) and set(rows) == expected
    assert all(rate.elements == (805 if rate.tensors == 3 else 3000) for rate in rates)
    assert all(rate.launches == 2 for rate in rates if rate.operation != "recode")
    assert {(rate.rotate, rate.launches) for rate in rates if rate.operation == "recode"} == {(False, 3), (True, 4)}
    row = bench.as_json(rates[0])
    assert row["launches"] == 2 and row["microseconds"] == pytest.approx(1e6 * 3000 / rates[0].elements_per_second)
    text = bench.as_text([rate for rate in rates if rate.tensors == 3][:1])
    assert "3 tensors in " in text and " us 2 launches, host " in text


def test_161_tensors_are_encoded_in_two_launches() -> None:
    """As many tensors as a ResNet-50 has; the emulation takes long for its 25 million numbers."""
    device = CountedDevice(EmulatedDevice())
    parts = [torch.ones(max(torch.Size(shape).numel() // 10_000, 1)) for shape in resnet50_shapes()]
    levels, elements = levels_of(3), sum(part.numel() for part in parts)
    layout, codec = RecordLayout(elements, QuantiserConfig(3, 1024)), CudaCodec(device)
    assert len(parts) == 161
    assert device.launches_of(lambda: codec.encode(parts, layout, levels, KEY, Stamp(levels.digest, 0, 0))) == 2


def test_bytes_moved() -> None:
    """A copy moves 8 bytes an element; 16-bit values 2; the middle of a two-shot reads and writes codes alone.

    Error feedback reads and writes a float32 more.
    """
    half = Rate("cuda", "encode", 4, 1, 100, 5.0, 10.0, dtype="float16")
    assert half.share_of_bandwidth == 0.5 * 2.5 / 8
    assert Rate("cuda", "feedback", 4, 1, 100, 5.0, 10.0).share_of_bandwidth == 0.5 * 12.5 / 8
    assert Rate("cuda", "recode", 4, 3, 100, 5.0, 10.0).share_of_bandwidth == 0.5 * 2 / 8
