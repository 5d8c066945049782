"""Kernels of ranks that round together, and of dithered sums, run on the CPU: the bytes and sums of the reference."""

from __future__ import annotations

import pytest
import torch

from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.codec.strata import strata_for
from tests.support import cuda_drawn_cases
from tests.support.emulated_device import EmulatedDevice, needs_compiler

pytestmark = [needs_compiler, pytest.mark.timeout(300), pytest.mark.usefixtures("fresh_memory_is_filled")]


def test_strata_of_the_cases_are_strata() -> None:
    assert tuple(map(strata_for, cuda_drawn_cases.STRATA)) == cuda_drawn_cases.STRATA


@pytest.mark.parametrize("bits", range(1, 9))
def test_ranks_that_round_together(codec: CudaCodec, bits: int) -> None:
    for way in cuda_drawn_cases.together(bits):
        cuda_drawn_cases.check_way(codec, way)


@pytest.mark.parametrize("bits", range(1, 9))
def test_dithered_records(codec: CudaCodec, bits: int) -> None:
    for way in cuda_drawn_cases.dithered(bits):
        cuda_drawn_cases.check_way(codec, way)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_gradients_of_many_tensors(codec: CudaCodec, dtype: torch.dtype) -> None:
    for ways in (cuda_drawn_cases.together(3), cuda_drawn_cases.dithered(4)):
        for way in ways:
            cuda_drawn_cases.check_16_bits(codec, way, dtype)


def test_sums_that_are_encoded_again(device: EmulatedDevice, codec: CudaCodec) -> None:
    """In one kernel where neither shot is rotated, and the first is not dithered."""
    for bucket_size in (512, 8192, 1000):
        for rotate, first in ((False, False), (False, True), (True, False)):
            device.launched.clear()
            cuda_drawn_cases.check_recode(codec, 4, bucket_size, rotate=rotate, first=first)
            assert ("alq::recode<4, 4>" in device.launched) == (bucket_size != 1000 and not rotate and not first)


def test_damage_among_what_names_the_draws(codec: CudaCodec) -> None:
    for way in cuda_drawn_cases.dithered(4):
        cuda_drawn_cases.check_damage(codec, way)


def test_launches_are_those_of_ranks_on_their_own(device: EmulatedDevice, codec: CudaCodec) -> None:
    """The strata come with the header; nothing is done on the host."""
    way = cuda_drawn_cases.together(3)[0]
    cuda_drawn_cases.check_way(codec, way)
    assert set(device.launched) == {
        "alq::begin_record",
        "alq::encode<float, 3>",
        "alq::decode_sum<float, 3, false>",
        "alq::finish_decode",
    }
