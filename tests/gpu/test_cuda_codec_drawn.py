"""Kernels of ranks that round together, and of dithered sums, against the reference: same bytes, same sums."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alq_hvd import backends
from alq_hvd.codec.cuda_codec import CudaCodec
from tests.support import cuda_drawn_cases


@pytest.fixture(scope="module")
def codec() -> CudaCodec:
    return CudaCodec()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("elements", [0, 100_003])
def test_bytes_of_the_reference(codec: CudaCodec, bits: int, elements: int) -> None:
    for way in (*cuda_drawn_cases.together(bits), *cuda_drawn_cases.dithered(bits)):
        cuda_drawn_cases.check_way(codec, replace(way, elements=elements or way.elements))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_gradients_of_many_tensors(codec: CudaCodec, dtype: str) -> None:
    for ways in (cuda_drawn_cases.together(3), cuda_drawn_cases.dithered(4)):
        for way in ways:
            cuda_drawn_cases.check_16_bits(codec, way, getattr(backends.torch(), dtype))


@pytest.mark.parametrize("bucket_size", [512, 8192, 1000])
def test_recode_is_decode_and_encode(codec: CudaCodec, bucket_size: int) -> None:
    for rotate, first in ((False, False), (False, True), (True, False)):
        cuda_drawn_cases.check_recode(codec, 4, bucket_size, rotate=rotate, first=first)


def test_damage_among_what_names_the_draws(codec: CudaCodec) -> None:
    for way in cuda_drawn_cases.dithered(4):
        cuda_drawn_cases.check_damage(codec, way)


def test_strata_of_a_record_are_not_those_of_the_one_before(codec: CudaCodec) -> None:
    """All records of a codec use one place for their strata, in the order of the calls."""
    ways = cuda_drawn_cases.together(3)
    for way in (*ways, *reversed(ways)):
        cuda_drawn_cases.check_16_bits(codec, way, backends.torch().bfloat16)
