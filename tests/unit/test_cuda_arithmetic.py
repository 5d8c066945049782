"""The CUDA codec, run on the CPU: the bytes, sums and statistics of the reference codec on every machine."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch

from alq_hvd.codec import cuda_structs
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.codec.strata import draws_of
from alq_hvd.quantiser.config import Norm, QuantiserConfig
from alq_hvd.quantiser.record import RecordLayout, Stamp
from tests.support import cuda_cases
from tests.support.cases import each
from tests.support.emulated_device import EmulatedDevice, library, needs_compiler

pytestmark = [needs_compiler, pytest.mark.timeout(300), pytest.mark.usefixtures("fresh_memory_is_filled")]


@each("bits", range(1, 9))
@each("norm", ["l2", "linf"])
@each("bucket_size", [64, 512, 1024, 3072, 8192, 10_240, 7, 1000, 5000])
def test_bytes_of_the_reference(codec: CudaCodec, bits: int, norm: Norm, bucket_size: int) -> None:
    """Fused kernels for powers of two and multiples of 1024, two passes for the rest; the last bucket is short."""
    elements = (1, 33, 5003, 8192, 20_483)[(bits + bucket_size) % 5]
    # A block a bucket, and 256 contexts a block, take their time.
    cuda_cases.check_bytes(codec, bits, norm, bucket_size, min(elements, 100 * bucket_size))


def test_one_reading_where_buckets_fit_a_block_and_two_elsewhere(device: EmulatedDevice, codec: CudaCodec) -> None:
    levels, stamp = cuda_cases.levels_of(8), Stamp(cuda_cases.levels_of(8).digest, 0, 0)
    expected = {
        512: ["alq::begin_record", "alq::encode<float, 3>"],
        1000: ["alq::begin_record", "alq::bucket_norms<float>", "alq::encode_with_norms<float, 3>"],
    }
    for bucket_size, names in expected.items():
        device.launched.clear()
        layout = RecordLayout(3000, QuantiserConfig(3, bucket_size))
        codec.encode(torch.ones(3000), layout, levels, cuda_cases.KEY, stamp)
        assert device.launched == names


def test_a_device_with_little_shared_memory_reads_large_buckets_twice() -> None:
    """Buckets of 16 384 need 64 KiB of a block's shared memory: more than this device has, less than an H200's."""
    small = EmulatedDevice(shared_bytes=48 * 1024)
    cuda_cases.check_bytes(CudaCodec(small), 3, "l2", 16_384, 20_000)
    assert "alq::encode_with_norms<float, 3>" in small.launched
    cuda_cases.check_bytes(CudaCodec(EmulatedDevice()), 3, "l2", 16_384, 20_000)


@each("elements", [0, 1])
def test_groups_of_almost_nothing(codec: CudaCodec, elements: int) -> None:
    for bucket_size in (512, 1000):
        cuda_cases.check_bytes(codec, 3, "l2", bucket_size, elements)


@each("scale", [1e-37, 1e-20, 1e-11, 1.0, 1e29, 1e31])
def test_divisions_at_every_scale(codec: CudaCodec, scale: float) -> None:
    cuda_cases.check_divisions(codec, scale)


@each("dtype", [torch.float16, torch.bfloat16])
@each("bucket_size", [512, 1000])
def test_16_bit_gradients_of_many_tensors(codec: CudaCodec, dtype: torch.dtype, bucket_size: int) -> None:
    cuda_cases.check_16_bit_tensors(codec, dtype, bucket_size, (4003, 1000, 0, 33, 1))


@each("bits", range(1, 9))
@each("bucket_size", [512, 1000, 2048])
@each("elements", [1, 1500, 9003])
def test_decode_sum_gives_the_floats_of_the_reference(
    codec: CudaCodec, bits: int, bucket_size: int, elements: int
) -> None:
    cuda_cases.check_decode_sum(codec, bits, bucket_size, elements)


@each("widths", [(3, 8), (4, 4)])
@each("bucket_size", [512, 8192, 1000])
def test_recoding_is_decoding_and_encoding(codec: CudaCodec, widths: tuple[int, int], bucket_size: int) -> None:
    cuda_cases.check_recode(codec, widths, bucket_size, 9003)


@each("clip", [None, 1.5])
@each("bucket_size", [512, 1000])
def test_error_feedback_keeps_what_was_lost(codec: CudaCodec, bucket_size: int, clip: float | None) -> None:
    cuda_cases.check_error_feedback(codec, bucket_size, clip, 5003)


@each("config", [QuantiserConfig(3, 512), QuantiserConfig(3, 1000, "linf", 2.5)])
def test_statistics_agree_with_the_reference(codec: CudaCodec, config: QuantiserConfig) -> None:
    cuda_cases.check_statistics(codec, config, 9003)


def test_wrong_tensors_are_refused(codec: CudaCodec) -> None:
    cuda_cases.check_refusals(codec, torch.zeros(8, device="meta"))


@each("bits", range(1, 9))
def test_the_tables_are_those_of_the_c_header(bits: int) -> None:
    for count in {2**bits, max(2, 2**bits - 1)}:
        levels, made = cuda_cases.levels_of(count, bits), np.zeros(4 * 256 + 1, dtype=np.float32)
        values, gaps = (array.ctypes.data_as(ctypes.c_void_p) for array in (levels.values, levels.inverse_gaps))
        for strata in (1, 3, 8):
            drawn = ctypes.c_float(draws_of(strata))
            library().emulated_tables(values, gaps, count, bits, drawn, made.ctypes.data_as(ctypes.c_void_p))
            assert np.array_equal(made, cuda_structs.tables(levels, bits, strata)), strata


def test_arguments_of_another_size_would_not_go_unseen(device: EmulatedDevice) -> None:
    """The driver copies as many bytes as the kernel declares, whatever it is given: the emulation compares."""
    with pytest.raises(AssertionError, match=r"expected arguments of these bytes: 72 88 8, got: 72 8 8"):
        device.launch("alq::begin_record", 1, (np.zeros((), cuda_structs.RECORD_PLAN), 3, 0))
    with pytest.raises(AssertionError, match="no kernel is called alq::encode<double, 3>"):
        device.launch("alq::encode<double, 3>", 1, ())
