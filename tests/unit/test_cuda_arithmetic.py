"""The CUDA kernels' arithmetic, run on the CPU: the bytes, sums and statistics of the reference codec.

``tests/native/emulate_cuda.h`` runs the threads of a block one after another, so this shows that indices, arithmetic
and the order of sums are right on every machine; races and speed need a GPU (``tests/gpu``).
"""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from alq_hvd.codec import cuda_structs, native
from alq_hvd.codec.base import FloatArray, Record
from alq_hvd.codec.keys import stream_key
from alq_hvd.codec.reference import ReferenceCodec
from alq_hvd.config import QuantiserConfig
from alq_hvd.levels import Levels
from alq_hvd.statistics import BINS, BINS_PER_OCTAVE_LOG2, OCTAVES, GradientStatistics
from alq_hvd.wire import RecordLayout, Stamp, verify

SOURCES = Path(native.__file__).parent
PROGRAMS = Path(__file__).parents[1] / "native"
COMPILER = shutil.which("g++") or shutil.which("c++")
REFERENCE = ReferenceCodec()
KEY = stream_key(seed=1, step=2, rank=3, group=4, shot=0)

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler, as building alq_hvd does"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    built = tmp_path_factory.mktemp("emulated") / "emulated_codec.so"
    includes = [f"-I{SOURCES / 'csrc'}", f"-I{SOURCES / 'cuda'}", f"-I{PROGRAMS}"]
    options = ["-O1", "-std=c++17", "-fPIC", "-shared", "-ffp-contract=off", "-DALQ_EMULATED"]
    quiet = ["-Wall", "-Wno-unknown-pragmas", "-Wno-psabi"]
    command = [str(COMPILER), *options, *quiet, *includes, str(PROGRAMS / "emulated_codec.cpp"), "-o", str(built)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(built))


def address(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)  # keeps the array alive during the call


def tables(library: ctypes.CDLL, levels: Levels, bits: int) -> np.ndarray:
    """Return the tables the C++ header makes, which must be those the Python side makes."""
    made = np.zeros(4 * 256 + 1, dtype=np.float32)
    library.emulated_tables(address(levels.values), address(levels.inverse_gaps), len(levels), bits, address(made))
    assert np.array_equal(made, cuda_structs.tables(levels, bits))
    return made


class Split:
    """The same gradient as three tensors at places of their own."""

    def __init__(self, values: np.ndarray) -> None:
        cuts = sorted({0, len(values) // 3, len(values) // 3 + 1, len(values)})
        self.parts = [values[a:b].copy() for a, b in itertools.pairwise(cuts)]
        self.ends = np.cumsum([len(part) for part in self.parts]).astype(np.uint32)
        self.pointers = np.array([part.ctypes.data for part in self.parts], dtype=np.uint64)

    def joined(self) -> np.ndarray:
        return np.concatenate(self.parts)


def emulated_encode(
    library: ctypes.CDLL, values: np.ndarray, layout: RecordLayout, levels: Levels, stamp: Stamp, kind: int = 0,
    residual: np.ndarray | None = None,
) -> Record:  # fmt: skip
    split, config = Split(values), layout.quantiser
    record = np.full(layout.record_bytes, 0xEE, dtype=np.uint8)
    library.emulated_encode(
        kind, config.bits, address(cuda_structs.group(layout)), address(split.pointers), address(split.ends),
        None if residual is None else address(residual), address(tables(library, levels, config.bits)),
        address(np.array([KEY.first, KEY.second], np.uint32)), KEY.first_element,
        cuda_structs.chunk_size(config.bucket_size) or 0, address(cuda_structs.record_plan(layout, stamp)),
        address(record),
    )  # fmt: skip
    return record


def gradient(elements: int, bucket_size: int, seed: int) -> FloatArray:
    values = (np.random.default_rng(seed).standard_t(3, elements) * 1e-3).astype(np.float32)
    values[bucket_size : 2 * bucket_size] = 0
    values[3 * bucket_size : 3 * bucket_size + 1] = np.nan
    return values


def levels_of(count: int, seed: int = 0) -> Levels:
    inner = np.random.default_rng(seed).uniform(-1, 1, count - 2)
    return Levels(np.sort(np.concatenate([[-1.0, 1.0], inner])).astype(np.float32))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("bucket_size", [64, 512, 1024, 3072, 8192, 10_240, 7, 1000, 5000])
def test_encode_gives_the_bytes_of_the_reference(library: ctypes.CDLL, bits: int, norm: str, bucket_size: int) -> None:
    """Fused kernels for powers of two and multiples of 1024, two passes for the rest; the last bucket is short."""
    elements = (1, 33, 5003, 8192, 20_483)[(bits + bucket_size) % 5]
    elements = min(elements, 100 * bucket_size)  # a block a bucket, and 256 contexts a block, take their time
    clip = 2.5 if bits % 3 == 0 else None
    levels = levels_of(max(2, 2**bits - bits % 2), bits)
    layout, stamp = RecordLayout(elements, QuantiserConfig(bits, bucket_size, norm, clip)), Stamp(levels.digest, 2, 3)  # type: ignore[arg-type]
    values = gradient(elements, bucket_size, bits)
    expected = REFERENCE.encode(values, layout, levels, KEY, stamp)
    got = emulated_encode(library, values, layout, levels, stamp)
    verify(got, layout, stamp)
    assert np.array_equal(expected, got)


def test_divisions_at_every_scale(library: ctypes.CDLL) -> None:
    for scale in (1e-37, 1e-20, 1e-11, 1.0, 1e29, 1e31):
        values = (np.random.default_rng(0).standard_t(3, 2048) * scale).astype(np.float32)
        levels = levels_of(8)
        layout, stamp = RecordLayout(2048, QuantiserConfig(3, 512)), Stamp(levels.digest, 2, 3)
        expected = REFERENCE.encode(values, layout, levels, KEY, stamp)
        assert np.array_equal(expected, emulated_encode(library, values, layout, levels, stamp))


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize("bucket_size", [512, 1000])
def test_half_and_bfloat16_gradients(library: ctypes.CDLL, kind: int, bucket_size: int) -> None:
    """Pitfall 3: widened exactly to float32 before anything is computed."""
    values = gradient(5003, bucket_size, 0)
    values[5:8] = [1e-7, 6e-8, -3e-6]  # subnormal halves
    halves = (
        values.astype(np.float16).view(np.uint16) if kind == 1 else (values.view(np.uint32) >> 16).astype(np.uint16)
    )
    wide = (
        halves.view(np.float16).astype(np.float32) if kind == 1 else (halves.astype(np.uint32) << 16).view(np.float32)
    )
    levels = levels_of(8)
    layout, stamp = RecordLayout(5003, QuantiserConfig(3, bucket_size)), Stamp(levels.digest, 2, 3)
    expected = REFERENCE.encode(wide, layout, levels, KEY, stamp)
    assert np.array_equal(expected, emulated_encode(library, halves, layout, levels, stamp, kind))


@pytest.mark.parametrize("bucket_size", [512, 1000])
def test_error_feedback_keeps_what_was_lost(library: ctypes.CDLL, bucket_size: int) -> None:
    values, residual = (np.random.default_rng(seed).normal(size=5003).astype(np.float32) for seed in (0, 1))
    levels = levels_of(8)
    layout, stamp = RecordLayout(5003, QuantiserConfig(3, bucket_size)), Stamp(levels.digest, 2, 3)
    expected = REFERENCE.encode(values + residual, layout, levels, KEY, stamp)
    lost = values + residual - REFERENCE.decode_sum([expected], layout, levels, [stamp], 1.0)
    assert np.array_equal(expected, emulated_encode(library, values, layout, levels, stamp, residual=residual))
    assert np.array_equal(residual, lost)


def records_of(layout: RecordLayout, levels: Levels, count: int) -> tuple[list[Record], list[Stamp]]:
    stamps = [Stamp(levels.digest, 2, sender) for sender in range(count)]
    values = [gradient(layout.elements, layout.quantiser.bucket_size, 10 + sender) for sender in range(count)]
    return [REFERENCE.encode(v, layout, levels, KEY, s) for v, s in zip(values, stamps, strict=True)], stamps


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("bucket_size", [512, 1000, 2048])
@pytest.mark.parametrize("elements", [1, 1500, 9003])
def test_decode_sum_gives_the_floats_of_the_reference(
    library: ctypes.CDLL, bits: int, bucket_size: int, elements: int
) -> None:
    levels, layout = levels_of(2**bits), RecordLayout(elements, QuantiserConfig(bits, bucket_size))
    records, stamps = records_of(layout, levels, 3)
    expected = REFERENCE.decode_sum(records, layout, levels, stamps, 1 / 3)
    split = Split(np.zeros(elements, np.float32))
    arguments = [address(cuda_structs.group(layout)), address(tables(library, levels, bits)), ctypes.c_float(1 / 3)]
    outputs = [address(split.pointers), address(split.ends)]
    pointers = np.array([record.ctypes.data for record in records], np.uint64)
    senders = np.arange(3, dtype=np.uint32)
    described = cuda_structs.records(layout, stamps[0], pointers.ctypes.data, senders.ctypes.data, 3)
    assert library.emulated_decode_sum(0, bits, address(described), *arguments, *outputs) == 0
    assert np.array_equal(split.joined(), expected, equal_nan=True)

    records[1][layout.codes_offset] ^= 1
    assert library.emulated_decode_sum(0, bits, address(described), *arguments, *outputs) == 2
    records[1][layout.codes_offset] ^= 1
    senders[2] = 7
    assert library.emulated_decode_sum(0, bits, address(described), *arguments, *outputs) == 1
    assert np.isnan(split.joined()).all()


def test_sums_in_half_and_bfloat16(library: ctypes.CDLL) -> None:
    levels, layout = levels_of(8), RecordLayout(3000, QuantiserConfig(3, 512))
    records, stamps = records_of(layout, levels, 2)
    expected = REFERENCE.decode_sum(records, layout, levels, stamps, 0.5)
    pointers = np.array([record.ctypes.data for record in records], np.uint64)
    senders = np.arange(2, dtype=np.uint32)
    described = cuda_structs.records(layout, stamps[0], pointers.ctypes.data, senders.ctypes.data, 2)
    for kind in (1, 2):
        split = Split(np.zeros(3000, np.uint16))
        library.emulated_decode_sum(
            kind, 3, address(described), address(cuda_structs.group(layout)), address(tables(library, levels, 3)),
            ctypes.c_float(0.5), address(split.pointers), address(split.ends),
        )  # fmt: skip
        got = split.joined()
        if kind == 1:
            assert np.array_equal(got.view(np.float16), expected.astype(np.float16), equal_nan=True)
        else:
            wide = (got.astype(np.uint32) << 16).view(np.float32)
            np.testing.assert_allclose(wide, expected, rtol=2.0**-8)


@pytest.mark.parametrize("bucket_size", [512, 8192])
def test_recoding_is_decoding_and_encoding(library: ctypes.CDLL, bucket_size: int) -> None:
    """The middle of a two-shot: 3 bits in, 8 bits out, another table."""
    levels, wide = levels_of(8), levels_of(256, 1)
    layout = RecordLayout(9003, QuantiserConfig(3, 512))
    again = RecordLayout(9003, QuantiserConfig(8, bucket_size, "linf"))
    records, stamps = records_of(layout, levels, 3)
    stamp = Stamp(wide.digest, 2, 1)
    summed = REFERENCE.decode_sum(records, layout, levels, stamps, 1.0)
    expected = REFERENCE.encode(summed, again, wide, KEY, stamp)
    pointers = np.array([record.ctypes.data for record in records], np.uint64)
    senders = np.arange(3, dtype=np.uint32)
    got = np.full(again.record_bytes, 0xEE, dtype=np.uint8)
    library.emulated_recode(
        address(cuda_structs.records(layout, stamps[0], pointers.ctypes.data, senders.ctypes.data, 3)),
        address(cuda_structs.group(layout)), address(tables(library, levels, 3)), ctypes.c_float(1.0),
        address(cuda_structs.group(again)), address(tables(library, wide, 8)),
        address(np.array([KEY.first, KEY.second], np.uint32)), cuda_structs.chunk_size(bucket_size),
        address(cuda_structs.record_plan(again, stamp)), address(got),
    )  # fmt: skip
    assert np.array_equal(expected, got)


@pytest.mark.parametrize("config", [QuantiserConfig(3, 512), QuantiserConfig(3, 1000, "linf", 2.5)])
def test_statistics_agree_with_the_reference(library: ctypes.CDLL, config: QuantiserConfig) -> None:
    values = gradient(9003, config.bucket_size, 0)
    layout, split = RecordLayout(9003, config), Split(values)
    mass, first, moments = np.zeros(BINS), np.zeros(BINS), np.zeros((layout.buckets, 4))
    library.emulated_statistics(
        address(cuda_structs.group(layout)), address(split.pointers), address(split.ends),
        address(np.array([OCTAVES, BINS_PER_OCTAVE_LOG2, 2], np.int32)),
        address(mass), address(first), address(moments),
    )  # fmt: skip
    got = GradientStatistics.from_bucket_sums(
        moments, mass, first, elements=9003, bucket_size=config.bucket_size, weight_exponent=2
    )
    expected = REFERENCE.statistics(values, config, 2)
    for name in ("coordinates", "zero_buckets", "non_finite_buckets"):
        assert getattr(expected, name) == getattr(got, name)
    for name in ("mass", "first_moment", "second_moment", "pooled_sum", "pooled_squares", "buckets"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-9, atol=1e-12)
