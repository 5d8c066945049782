"""Blocks of widths of their own on a real device: the checks of ``tests/unit/test_cuda_widths.py``, larger."""

from __future__ import annotations

import pytest

from alq_hvd import backends
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.quantiser.record import Stamp
from tests.support import cuda_width_cases
from tests.support.cases import each
from tests.support.cuda_cases import on_device
from tests.support.cuda_width_cases import METHODS

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def codec() -> CudaCodec:
    return CudaCodec()


@each("method", METHODS)
@each("bucket_size", [64, 512, 1024, 3072, 8192, 16_384])
@each("bits", [0.5, 1.5, 4.25])
def test_bytes_of_the_reference(codec: CudaCodec, method: str, bucket_size: int, bits: float) -> None:
    for elements in (1, 8193, 300_007):
        cuda_width_cases.check(codec, method, elements, bits, bucket_size)


@each("method", ["optimal", "rotated", "largest"])
def test_ranks_that_round_together(codec: CudaCodec, method: str) -> None:
    for strata in (2, 31, 65_536):
        cuda_width_cases.check(codec, method, 100_003, 1.5, 1024, strata, 1024 * 5 + 3)


@each("dtype", ["float16", "bfloat16"])
def test_16_bit_gradients_of_many_tensors(codec: CudaCodec, dtype: str) -> None:
    for method in ("eden", "dithered"):
        cuda_width_cases.check_16_bits(codec, method, getattr(backends.torch(), dtype), (70_001, 1000, 0, 33, 1))


@each("method", ["eden", "optimal", "rotated, dithered"])
def test_damage_and_recode(codec: CudaCodec, method: str) -> None:
    cuda_width_cases.check_damage(codec, method)
    cuda_width_cases.check_recode(codec, method)


def test_warm_calls_do_not_wait(codec: CudaCodec) -> None:
    torch = backends.torch()
    layout, levels = cuda_width_cases.made("eden", 1 << 20, 1.5, 1024)
    stamp, key = Stamp(levels.digest, 2, 3), cuda_width_cases.key_of(layout)
    values, out = on_device(codec, cuda_width_cases.spread(1 << 20)), torch.empty(1 << 20, device="cuda")

    def once() -> None:
        record = codec.encode(values, layout, levels, key, stamp)
        codec.decode_sum([record], layout, levels, [stamp], 1.0, out)

    once()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        once()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    codec.raise_for_damage()
