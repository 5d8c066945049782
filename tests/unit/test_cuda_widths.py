"""Kernels of blocks that have widths of their own, run on the CPU: the bytes, sums and residuals of the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alq_hvd.codec import cuda_structs
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.quantiser.record import Stamp
from alq_hvd.quantiser.widths import LARGEST_ENERGY, SMALLEST_ENERGY, keys_of
from tests.support import cuda_width_cases
from tests.support.cuda_width_cases import METHODS, made
from tests.support.emulated_device import EmulatedDevice, needs_compiler

pytestmark = [needs_compiler, pytest.mark.timeout(300), pytest.mark.usefixtures("fresh_memory_is_filled")]


@pytest.mark.parametrize("method", METHODS)
def test_bytes_of_the_reference(codec: CudaCodec, method: str) -> None:
    """Budgets at which blocks are kept at random and at which all have bits; last buckets of every kind."""
    for elements, bucket_size, bits in (
        (1, 1024, 0.5),
        (33, 64, 1),
        (5003, 128, 0.75),
        (9217, 1024, 1.5),
        (20_483, 512, 0.5),
        (30_001, 1024, 3.2),
        (19_000, 3072, 2.5),
        (17_000, 8192, 6.4),
        (40_000, 16_384, 4),
    ):
        cuda_width_cases.check(codec, method, elements, bits, bucket_size)


@pytest.mark.parametrize("method", ["optimal", "rotated", "largest"])
def test_ranks_that_round_together(codec: CudaCodec, method: str) -> None:
    for strata in (2, 31, 65_536):
        for element in (1024 * 5, 1024 * 5 + 3):
            cuda_width_cases.check(codec, method, 9217, 1.5, 1024, strata, element)


def test_more_blocks_than_a_warp_places_and_threads_share(codec: CudaCodec) -> None:
    """Places are kept for every 128 blocks; shares are summed 256 at a time."""
    for method, bits in (("eden", 0.6), ("optimal", 2.3)):
        cuda_width_cases.check(codec, method, 1024 * 300 + 77, bits, 1024)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_gradients_of_many_tensors(codec: CudaCodec, dtype: torch.dtype) -> None:
    for method in ("eden", "dithered"):
        cuda_width_cases.check_16_bits(codec, method, dtype, (4003, 1000, 0, 33, 8193))


@pytest.mark.parametrize("method", ["eden", "optimal", "rotated, dithered"])
def test_damage_is_noted_and_nothing_is_read_outside(codec: CudaCodec, method: str) -> None:
    cuda_width_cases.check_damage(codec, method)


@pytest.mark.parametrize("method", ["optimal", "rotated, dithered"])
def test_sums_that_are_encoded_again(codec: CudaCodec, method: str) -> None:
    cuda_width_cases.check_recode(codec, method)


def test_gradients_of_nothing_and_of_one_energy(codec: CudaCodec) -> None:
    """Nobody has a key, or all blocks share one: rows that are left go to the first of them."""
    layout, levels = made("optimal", 64 * 1024, 3.5, 1024)
    stamp, key = Stamp(levels.digest, 2, 3), cuda_width_cases.key_of(layout)
    for values in (np.zeros(64 * 1024, np.float32), np.ones(64 * 1024, np.float32)):
        for _ in range(2):  # what a call leaves behind for the next
            record = codec.encode(torch.from_numpy(values), layout, levels, key, stamp)
            assert np.array_equal(record.numpy(), cuda_width_cases.REFERENCE.encode(values, layout, levels, key, stamp))


def test_keys_of_all_energies_are_counted() -> None:
    lowest, highest = keys_of(np.array([SMALLEST_ENERGY, 1024 * LARGEST_ENERGY]))
    assert lowest == (1023 - 252) << 3 and 0 < highest - lowest < cuda_structs.KEYS


def test_launches(device: EmulatedDevice, codec: CudaCodec) -> None:
    """Four to encode and three to decode, whatever the number of tensors or records; the host does nothing."""
    for method, encoder, decoder in (
        ("optimal", "alq::encode_by_width<float>", "alq::decode_by_width<float, false>"),
        ("eden", "alq::encode_rotated_by_width<float, true>", "alq::decode_rotated_by_width<float, false>"),
    ):
        layout, levels = made(method, 9000, 1.5, 1024)
        stamp = Stamp(levels.digest, 2, 3)
        device.launched.clear()
        record = codec.encode(torch.ones(9000), layout, levels, cuda_width_cases.key_of(layout), stamp)
        codec.decode_sum([record] * 3, layout, levels, [stamp] * 3, 1.0)
        assert device.launched == [
            *("alq::begin_record", "alq::block_energies<float>", "alq::share_out", encoder),
            *("alq::place_records", decoder, "alq::finish_decode"),
        ]


def test_buckets_that_no_kernel_takes_go_to_the_host(device: EmulatedDevice, codec: CudaCodec) -> None:
    for method in ("optimal", "eden"):
        for elements, bucket_size in ((3000, 32), (70_000, 65_536)):
            device.launched.clear()
            cuda_width_cases.check(codec, method, elements, 1.5, bucket_size)
            assert not [name for name in device.launched if "width" in name and "encode" in name]
