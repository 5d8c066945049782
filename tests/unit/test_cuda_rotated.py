"""The CUDA codec's rotated buckets, run on the CPU: the bytes, sums and statistics of the reference codec."""

from __future__ import annotations

import pytest
import torch

from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.quantiser.record import RecordLayout, Stamp
from tests.support import cuda_cases, cuda_rotated_cases
from tests.support.cases import each
from tests.support.cuda_rotated_cases import KINDS, config_of, table_of
from tests.support.emulated_device import EmulatedDevice, needs_compiler

pytestmark = [needs_compiler, pytest.mark.timeout(300), pytest.mark.usefixtures("fresh_memory_is_filled")]
kinds = each("kind", KINDS)


@each("bits", range(1, 9))
@kinds
@each("bucket_size", [64, 256, 512, 1024, 2048, 3072, 8192, 10_240, 1, 7, 32, 100, 1000, 5000])
def test_bytes_of_the_reference(codec: CudaCodec, kind: str, bits: int, bucket_size: int) -> None:
    """One block or two overlapping ones a bucket, even and odd exponents; the last bucket is short, of any length."""
    elements = (1, 33, 5003, 8192, 20_483, 9217, 8193)[(bits + bucket_size + len(kind)) % 7]
    cuda_rotated_cases.check_bytes(codec, kind, bits, bucket_size, min(elements, 100 * bucket_size))


@kinds
@each("bucket_size", [16_384, 49_152])
def test_large_buckets(codec: CudaCodec, device: EmulatedDevice, kind: str, bucket_size: int) -> None:
    device.launched.clear()
    cuda_rotated_cases.check_bytes(codec, kind, 3, bucket_size, bucket_size + 30_001)
    assert any(name.startswith("alq::encode_rotated") for name in device.launched)


@kinds
@each("bucket_size", [2**16, 70_000])
def test_buckets_too_large_for_shared_memory_are_rotated_in_device_memory(
    codec: CudaCodec, device: EmulatedDevice, kind: str, bucket_size: int
) -> None:
    device.launched.clear()
    cuda_rotated_cases.check_bytes(codec, kind, 3, bucket_size, 2 * bucket_size + 1001)
    assert {"alq::rotate_group<float, false>", "alq::add_run<float, false>"} <= set(device.launched)


@kinds
@each("bucket_size", [512, 1024, 5120, 8192, 17, 1000])
def test_runs_of_records_are_added_and_rotated_back_once(codec: CudaCodec, kind: str, bucket_size: int) -> None:
    cuda_rotated_cases.check_runs(codec, kind, 3, bucket_size, 12_007 if bucket_size > 100 else 807)


@kinds
@each("dtype", [torch.float16, torch.bfloat16])
@each("bucket_size", [512, 1000])
def test_16_bit_gradients_of_many_tensors(codec: CudaCodec, kind: str, dtype: torch.dtype, bucket_size: int) -> None:
    cuda_rotated_cases.check_16_bit_tensors(codec, kind, dtype, bucket_size, (4003, 1000, 0, 33, 1))


@each("pair", [("l2", "linf"), ("nearest", "nearest"), ("plain", "l2"), ("linf", "plain")])
@each("bucket_sizes", [(512, 512), (1024, 8192), (1000, 512), (8192, 1000)])
def test_recoding_is_decoding_and_encoding(
    codec: CudaCodec, pair: tuple[str, str], bucket_sizes: tuple[int, int]
) -> None:
    cuda_rotated_cases.check_recode(codec, pair, bucket_sizes, 9003)


@kinds
@each("bucket_size", [512, 3072, 8192, 1000])
def test_error_feedback_keeps_what_was_lost(codec: CudaCodec, kind: str, bucket_size: int) -> None:
    cuda_rotated_cases.check_error_feedback(codec, kind, bucket_size, 9217)


@kinds
@each("bucket_size", [512, 8192, 100])
@each("clip", [None, 2.5])
def test_statistics_agree_with_the_reference(codec: CudaCodec, kind: str, bucket_size: int, clip: float | None) -> None:
    cuda_cases.check_statistics(codec, config_of(kind, 3, bucket_size, clip), 9003)


def test_launches(device: EmulatedDevice, codec: CudaCodec) -> None:
    """Fused where a block holds whole buckets; a device with little shared memory takes more launches."""
    expected = {
        ("linf", 8192): ["alq::begin_record", "alq::encode_rotated<float, 3, false>"],
        ("nearest", 8192): ["alq::begin_record", "alq::encode_rotated<float, 3, true>"],
        ("linf", 1000): [
            "alq::begin_record",
            "alq::rotate_group<float, true>",
            "alq::bucket_norms<float>",
            "alq::encode_with_norms<float, 3>",
        ],
    }
    for (kind, bucket_size), names in expected.items():
        levels, layout = table_of(kind, 3), RecordLayout(3000, config_of(kind, 3, bucket_size))
        device.launched.clear()
        record = codec.encode(torch.ones(3000), layout, levels, cuda_cases.KEY, Stamp(levels.digest, 0, 0))
        assert device.launched == names
    device.launched.clear()
    codec.decode_sum([record] * 2, layout, levels, [Stamp(levels.digest, 0, 0)] * 2, 1.0)
    assert device.launched == ["alq::sum_run<3, false>", "alq::add_run<float, true>"] * 2 + ["alq::finish_decode"]
    small = EmulatedDevice(shared_bytes=48 * 1024)
    cuda_rotated_cases.check_bytes(CudaCodec(small), "l2", 3, 16_384, 20_000)
    assert {"alq::rotate_group<float, false>", "alq::add_run<float, false>"} <= set(small.launched)


@kinds
@each("elements", [0, 1])
def test_groups_of_almost_nothing(codec: CudaCodec, kind: str, elements: int) -> None:
    for bucket_size in (512, 1000):
        cuda_rotated_cases.check_bytes(codec, kind, 3, bucket_size, elements)
