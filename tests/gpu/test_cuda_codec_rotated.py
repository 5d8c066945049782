"""The GPU codec's rotated buckets on a real device: the checks of ``tests/unit/test_cuda_rotated.py``, larger."""

from __future__ import annotations

from typing import Any

import pytest

from alq_hvd import backends
from alq_hvd.codec.cuda_codec import CudaCodec
from tests.support import cuda_cases, cuda_rotated_cases
from tests.support.cases import each
from tests.support.cuda_rotated_cases import KINDS, config_of

kinds = each("kind", KINDS)
pytestmark = pytest.mark.timeout(500)  # grids of a thousand cases


@pytest.fixture(scope="module")
def codec() -> CudaCodec:
    return CudaCodec()


@pytest.mark.parametrize("bits", range(1, 9))  # tests of their own, which pytest-xdist shares out
@kinds
@each("bucket_size", [64, 512, 1024, 2048, 3072, 8192, 49_152, 1, 7, 1000, 65_536])
@each("elements", [0, 1, 8191, 300_007])
def test_bytes_of_the_reference(codec: CudaCodec, kind: str, bits: int, bucket_size: int, elements: int) -> None:
    cuda_rotated_cases.check_bytes(codec, kind, bits, bucket_size, elements)


@kinds
@each("bits", [2, 3, 8])
@each("bucket_size", [512, 1024, 5120, 8192, 32_768, 17, 1000, 70_000])
def test_runs_of_records(codec: CudaCodec, kind: str, bits: int, bucket_size: int) -> None:
    cuda_rotated_cases.check_runs(codec, kind, bits, bucket_size, 300_007)


@kinds
@each("dtype", ["float16", "bfloat16"])
@each("bucket_size", [512, 8192, 1000])
def test_16_bit_gradients_of_many_tensors(codec: CudaCodec, kind: str, dtype: str, bucket_size: int) -> None:
    torch_type: Any = getattr(backends.torch(), dtype)
    cuda_rotated_cases.check_16_bit_tensors(codec, kind, torch_type, bucket_size, (70_001, 1000, 0, 33, 1))


@each("pair", [("l2", "linf"), ("nearest", "nearest"), ("plain", "l2"), ("linf", "plain")])
@each("bucket_sizes", [(512, 512), (1024, 8192), (1000, 512), (8192, 1000)])
def test_recode(codec: CudaCodec, pair: tuple[str, str], bucket_sizes: tuple[int, int]) -> None:
    cuda_rotated_cases.check_recode(codec, pair, bucket_sizes, 100_003)


@kinds
@each("bucket_size", [512, 3072, 8192, 1000])
def test_error_feedback(codec: CudaCodec, kind: str, bucket_size: int) -> None:
    cuda_rotated_cases.check_error_feedback(codec, kind, bucket_size, 70_001)


@kinds
@each("bucket_size", [512, 8192, 100])
@each("clip", [None, 2.5])
def test_statistics(codec: CudaCodec, kind: str, bucket_size: int, clip: float | None) -> None:
    cuda_cases.check_statistics(codec, config_of(kind, 3, bucket_size, clip), 300_007)
