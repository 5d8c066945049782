"""Chunks that the threads of a block hold in registers: the bytes of the reference for every width, norm and type.

What is out of the ordinary in a chunk, one bucket of zeros say, sends it another way, so gradients here are ordinary.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from alq_hvd.codec.base import FloatArray
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.codec.cuda_structs import held_log2
from alq_hvd.quantiser.config import Norm, QuantiserConfig
from alq_hvd.quantiser.record import RecordLayout, Stamp
from tests.support import cuda_cases, cuda_rotated_cases
from tests.support.cases import each
from tests.support.cuda_rotated_cases import KINDS, STARTED, config_of, table_of
from tests.support.emulated_device import EmulatedDevice, needs_compiler

pytestmark = [needs_compiler, pytest.mark.timeout(300)]
SIZES = (1024, 2048, 4096, 8192)
ELEMENTS = 8192 + 700
"""A chunk that is held, and one that is short."""


def ordinary(elements: int, bucket_size: int = 0, seed: int = 0) -> FloatArray:
    """Return heavy-tailed values, without buckets of zeros or NaN."""
    return (np.random.default_rng(seed).standard_t(3, elements) * 1e-3).astype(np.float32)


@pytest.fixture(autouse=True)
def ordinary_gradients_in_fresh_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the cases take ordinary gradients; fill fresh memory, so that a byte nobody writes is seen."""
    for cases in (cuda_cases, cuda_rotated_cases):
        monkeypatch.setattr(cases, "gradient", ordinary)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def codec() -> CudaCodec:
    return CudaCodec(EmulatedDevice())


def test_which_buckets_are_held() -> None:
    logarithms = {size: held_log2(QuantiserConfig(3, size)) for size in (512, 1024, 2048, 3072, 4096, 8192, 16_384)}
    assert logarithms == {512: -1, 1024: 0, 2048: 1, 3072: -1, 4096: 2, 8192: 3, 16_384: -1}
    assert held_log2(QuantiserConfig(3, 1024, clip=2.5)) == -1


@each("bits", range(1, 9))
def test_bytes_of_the_reference(codec: CudaCodec, bits: int) -> None:
    """One tensor, and several, between which the chunk crosses; sums of two records."""
    norms: tuple[Norm, ...] = ("l2", "linf")
    for norm in norms:
        size = SIZES[(bits + (norm == "linf")) % 4]
        levels = cuda_cases.levels_of(max(2, 2**bits - bits % 2), bits)
        layout, stamp = RecordLayout(ELEMENTS, QuantiserConfig(bits, size, norm)), Stamp(levels.digest, 2, 3)
        cuda_cases.check_record(codec, ordinary(ELEMENTS, seed=bits), layout, levels, STARTED, stamp)


@each("bits", range(1, 9))
def test_bytes_of_rotated_buckets(codec: CudaCodec, bits: int) -> None:
    for number, kind in enumerate(KINDS):
        cuda_rotated_cases.check_bytes(codec, kind, bits, SIZES[(bits + number) % 4], ELEMENTS)


def test_every_size_of_bucket(codec: CudaCodec) -> None:
    for size in SIZES:
        for norm in ("l2", "linf"):
            cuda_cases.check_bytes(codec, 4, norm, size, ELEMENTS)  # type: ignore[arg-type]
        for kind in KINDS:
            cuda_rotated_cases.check_bytes(codec, kind, 4, size, ELEMENTS)


@each("scale", [1e-37, 1e-20, 1e-11, 1e29, 1e31, 0.0, np.nan, np.inf])
def test_an_unusual_bucket_among_ordinary_ones(codec: CudaCodec, scale: float) -> None:
    """Its norm, or dividing by it, is not what the others' are: the whole chunk goes the other way."""
    levels = cuda_cases.levels_of(8)
    values = ordinary(ELEMENTS)
    values[5 * 1024 : 6 * 1024] *= np.float32(1e3 * scale)
    for kind in ("plain", *KINDS):
        config = QuantiserConfig(3, 1024) if kind == "plain" else config_of(kind, 3, 1024)
        table = levels if kind == "plain" else table_of(kind, 3)
        stamp = Stamp(table.digest, 2, 3)
        record = codec.encode(torch.from_numpy(values), RecordLayout(ELEMENTS, config), table, STARTED, stamp)
        expected = cuda_cases.REFERENCE.encode(values, RecordLayout(ELEMENTS, config), table, STARTED, stamp)
        assert np.array_equal(record.numpy(), expected), kind


def test_error_feedback_keeps_what_was_lost(codec: CudaCodec) -> None:
    for size in SIZES:
        for config in (QuantiserConfig(3, size), QuantiserConfig(8, size, "linf"), config_of("l2", 3, size)):
            layout, levels = RecordLayout(ELEMENTS, config), cuda_cases.levels_of(2**config.bits)
            cuda_cases.check_residual(codec, layout, levels, STARTED)


def test_16_bit_gradients_of_many_tensors(codec: CudaCodec) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        for sizes in ((ELEMENTS, 33, 1), (4003, 5000, 0, 33, 8193)):
            cuda_cases.check_16_bit_tensors(codec, dtype, 2048, sizes)
            cuda_rotated_cases.check_16_bit_tensors(codec, "linf", dtype, 2048, sizes)


def test_tensors_that_are_not_aligned_for_four_values_at_a_time(codec: CudaCodec) -> None:
    """Gradients in a bucket of PyTorch's own start anywhere."""
    levels, layout = table_of("l2", 3), RecordLayout(8192, config_of("l2", 3, 8192))
    stamp, room = Stamp(levels.digest, 2, 3), torch.from_numpy(ordinary(8195))
    for start in range(4):
        values = room[start : start + 8192]
        expected = cuda_cases.REFERENCE.encode(values.numpy(), layout, levels, STARTED, stamp)
        assert np.array_equal(codec.encode(values, layout, levels, STARTED, stamp).numpy(), expected)


def test_sums_that_are_encoded_again(codec: CudaCodec) -> None:
    for widths in ((4, 4), (3, 8), (8, 8)):
        cuda_cases.check_recode(codec, widths, 8192, ELEMENTS)
        cuda_cases.check_recode(codec, widths, 1024, ELEMENTS)


def test_sums_of_whole_tiles_and_damage(codec: CudaCodec) -> None:
    for bits in (3, 5, 6):
        cuda_cases.check_decode_sum(codec, bits, 8192, 9003)
        cuda_rotated_cases.check_runs(codec, "nearest", bits, 2048, 9003)
