"""The GPU codec against the reference: same bytes, same sums; no waiting, no new memory once warm."""

from __future__ import annotations

import numpy as np
import pytest

from alq_hvd import backends
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.codec.cuda_device import CudaDevice
from alq_hvd.quantiser.config import Norm, QuantiserConfig
from alq_hvd.quantiser.record import RecordLayout, Stamp
from tests.support import cuda_cases
from tests.support.cases import each
from tests.support.cuda_cases import KEY, gradient, levels_of, on_device

pytestmark = pytest.mark.timeout(500)  # grids of a thousand cases


@pytest.fixture(scope="module")
def codec() -> CudaCodec:
    return CudaCodec()


@pytest.mark.parametrize("bits", range(1, 9))  # tests of their own, which pytest-xdist shares out
@each("norm", ["l2", "linf"])
@each("bucket_size", [64, 512, 1024, 8192, 16_384, 40_960, 1, 7, 1000, 65_536])
@each("elements", [0, 1, 8191, 8192, 8193, 300_007])
def test_bytes_of_the_reference(codec: CudaCodec, bits: int, norm: Norm, bucket_size: int, elements: int) -> None:
    cuda_cases.check_bytes(codec, bits, norm, bucket_size, elements)


@each("scale", [1e-37, 1e-20, 1e-11, 1.0, 1e29, 1e31])
def test_divisions_at_every_scale(codec: CudaCodec, scale: float) -> None:
    cuda_cases.check_divisions(codec, scale)


@each("dtype", ["float16", "bfloat16"])
@each("bucket_size", [512, 1000])
def test_16_bit_gradients_of_many_tensors(codec: CudaCodec, dtype: str, bucket_size: int) -> None:
    sizes = (70_001, 1000, 0, 33, 1)
    cuda_cases.check_16_bit_tensors(codec, getattr(backends.torch(), dtype), bucket_size, sizes)


@each("bits", range(1, 9))
@each("bucket_size", [512, 1000, 8192])
@each("elements", [1, 9003, 300_007])
def test_decode_sum_and_damage(codec: CudaCodec, bits: int, bucket_size: int, elements: int) -> None:
    cuda_cases.check_decode_sum(codec, bits, bucket_size, elements)


@each("widths", [(4, 8), (3, 3), (2, 5)])
@each("bucket_size", [512, 1000, 8192])
def test_recode_is_decode_and_encode(codec: CudaCodec, widths: tuple[int, int], bucket_size: int) -> None:
    cuda_cases.check_recode(codec, widths, bucket_size, 100_003)


@each("clip", [None, 1.5])
@each("bucket_size", [512, 1000])
def test_error_feedback(codec: CudaCodec, bucket_size: int, clip: float | None) -> None:
    cuda_cases.check_error_feedback(codec, bucket_size, clip, 70_001)


@each("config", [QuantiserConfig(3, 512), QuantiserConfig(3, 1000, "linf", 2.5)])
def test_statistics(codec: CudaCodec, config: QuantiserConfig) -> None:
    cuda_cases.check_statistics(codec, config, 300_007)


def test_wrong_tensors_are_refused(codec: CudaCodec) -> None:
    cuda_cases.check_refusals(codec, backends.torch().zeros(8))


def test_warm_calls_neither_allocate_nor_wait(codec: CudaCodec) -> None:
    torch = backends.torch()
    levels = levels_of(8)
    layout, stamp = RecordLayout(1 << 20, QuantiserConfig(3, 8192)), Stamp(levels.digest, 2, 3)
    values, out = on_device(codec, gradient(1 << 20, 8192)), torch.empty(1 << 20, device="cuda")

    def once() -> None:
        record = codec.encode(values, layout, levels, KEY, stamp)
        codec.decode_sum([record], layout, levels, [stamp], 1.0, out)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        once()
        torch.cuda.synchronize()
        before = torch.cuda.memory_stats()["num_device_alloc"]
        torch.cuda.set_sync_debug_mode("error")
        try:
            once()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["num_device_alloc"] == before
    codec.raise_for_damage()


@pytest.mark.parametrize("lengths", [[512], [512, 0, 4096], [1 << 24]])
def test_bytes_go_to_the_device_and_back(lengths: list[int]) -> None:
    device = CudaDevice()
    arrays = [np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8) for length in lengths]
    there = device.upload(*arrays)
    assert str(there.device) == device.name
    back = device.download(list(there.split(lengths))).wait()
    assert back.tobytes() == b"".join(array.tobytes() for array in arrays)
