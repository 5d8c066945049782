"""The GPU codec against the reference: same bytes, same sums; no waiting, no new memory once warm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alq_hvd import backends
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.codec.keys import stream_key
from alq_hvd.codec.reference import ReferenceCodec
from alq_hvd.config import Norm, QuantiserConfig
from alq_hvd.errors import AlqError, UnsupportedTensor, WireFormatError
from alq_hvd.levels import Levels
from alq_hvd.wire import RecordLayout, Stamp, verify

REFERENCE = ReferenceCodec()
KEY = stream_key(seed=1, step=2, rank=3, group=4, shot=0)


@pytest.fixture(scope="module")
def codec() -> CudaCodec:
    return CudaCodec()


def gradient(elements: int, bucket_size: int, seed: int = 0) -> np.ndarray:
    values = (np.random.default_rng(seed).standard_t(3, elements) * 1e-3).astype(np.float32)
    values[bucket_size : 2 * bucket_size] = 0
    values[3 * bucket_size : 3 * bucket_size + 1] = np.nan
    return values


def levels_of(count: int, seed: int = 0) -> Levels:
    inner = np.random.default_rng(seed).uniform(-1, 1, count - 2)
    return Levels(np.sort(np.concatenate([[-1.0, 1.0], inner])).astype(np.float32))


def on_device(values: np.ndarray) -> Any:
    return backends.torch().from_numpy(values).cuda()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("bucket_size", [64, 512, 1024, 8192, 16_384, 40_960, 1, 7, 1000, 65_536])
@pytest.mark.parametrize("elements", [0, 1, 8191, 8192, 8193, 300_007])
def test_bytes_of_the_reference(codec: CudaCodec, bits: int, norm: Norm, bucket_size: int, elements: int) -> None:
    clip = 2.5 if bits % 3 == 0 else None
    levels = levels_of(max(2, 2**bits - bits % 2), bits)
    layout, stamp = RecordLayout(elements, QuantiserConfig(bits, bucket_size, norm, clip)), Stamp(levels.digest, 2, 3)
    values = gradient(elements, bucket_size, bits)
    expected = REFERENCE.encode(values, layout, levels, KEY, stamp)
    record = codec.encode(on_device(values), layout, levels, KEY, stamp)
    verify(record.cpu().numpy(), layout, stamp)
    assert np.array_equal(record.cpu().numpy(), expected)
    summed = codec.decode_sum([record, record], layout, levels, [stamp, stamp], 0.5)
    wanted = REFERENCE.decode_sum([expected, expected], layout, levels, [stamp, stamp], 0.5)
    assert np.array_equal(summed.cpu().numpy(), wanted, equal_nan=True)
    codec.raise_for_damage()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_gradients_of_many_tensors(codec: CudaCodec, dtype: str) -> None:
    torch = backends.torch()
    tensors = [on_device(gradient(size, 512, size)).to(getattr(torch, dtype)) for size in (1, 1000, 0, 70_001, 33)]
    flat = torch.cat(tensors).float().cpu().numpy()
    levels = levels_of(8)
    layout, stamp = RecordLayout(flat.size, QuantiserConfig(3, 512)), Stamp(levels.digest, 2, 3)
    record = codec.encode(tensors, layout, levels, KEY, stamp)
    assert np.array_equal(record.cpu().numpy(), REFERENCE.encode(flat, layout, levels, KEY, stamp))
    outputs = [torch.empty_like(tensor) for tensor in tensors]
    codec.decode_sum([record], layout, levels, [stamp], 1.0, outputs)
    wanted = torch.from_numpy(REFERENCE.decode_sum([record.cpu().numpy()], layout, levels, [stamp], 1.0))
    assert torch.equal(torch.cat(outputs).cpu().nan_to_num(7.0), wanted.to(outputs[0].dtype).nan_to_num(7.0))


@pytest.mark.parametrize("bucket_size", [512, 1000, 8192])
def test_recode_is_decode_and_encode(codec: CudaCodec, bucket_size: int) -> None:
    levels, wide = levels_of(16), levels_of(256, 1)
    layout, again = (RecordLayout(100_003, QuantiserConfig(bits, bucket_size)) for bits in (4, 8))
    stamps = [Stamp(levels.digest, 2, sender) for sender in range(4)]
    records = [codec.encode(on_device(gradient(100_003, 512, s.sender)), layout, levels, KEY, s) for s in stamps]
    stamp = Stamp(wide.digest, 2, 1)
    got = codec.recode(records, layout, levels, stamps, 0.25, again, wide, KEY, stamp)
    summed = REFERENCE.decode_sum([each.cpu().numpy() for each in records], layout, levels, stamps, 0.25)
    assert np.array_equal(got.cpu().numpy(), REFERENCE.encode(summed, again, wide, KEY, stamp))
    codec.raise_for_damage()


@pytest.mark.parametrize("bucket_size", [512, 1000])
def test_error_feedback(codec: CudaCodec, bucket_size: int) -> None:
    values, residual = (np.random.default_rng(seed).normal(size=70_001).astype(np.float32) for seed in (0, 1))
    levels = levels_of(8)
    layout, stamp = RecordLayout(70_001, QuantiserConfig(3, bucket_size)), Stamp(levels.digest, 2, 3)
    kept = on_device(residual)
    record = codec.encode(on_device(values), layout, levels, KEY, stamp, residual=kept).cpu().numpy()
    assert np.array_equal(record, REFERENCE.encode(values + residual, layout, levels, KEY, stamp))
    lost = values + residual - REFERENCE.decode_sum([record], layout, levels, [stamp], 1.0)
    assert np.array_equal(kept.cpu().numpy(), lost)


@pytest.mark.parametrize("config", [QuantiserConfig(3, 512), QuantiserConfig(3, 1000, "linf", 2.5)])
def test_statistics(codec: CudaCodec, config: QuantiserConfig) -> None:
    values = gradient(300_007, config.bucket_size)
    expected, got = REFERENCE.statistics(values, config, 2), codec.statistics(on_device(values), config, 2)
    for name in ("coordinates", "zero_buckets", "non_finite_buckets"):
        assert getattr(expected, name) == getattr(got, name)
    for name in ("mass", "first_moment", "second_moment", "pooled_sum", "pooled_squares", "buckets"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-9, atol=1e-12)


def test_damage_is_found_without_waiting_for_it(codec: CudaCodec) -> None:
    levels = levels_of(8)
    layout, stamp = RecordLayout(5000, QuantiserConfig(3, 512)), Stamp(levels.digest, 2, 3)
    record = codec.encode(on_device(gradient(5000, 512)), layout, levels, KEY, stamp)
    damaged = record.clone()
    damaged[layout.codes_offset] ^= 1
    codec.decode_sum([damaged], layout, levels, [stamp], 1.0)
    with pytest.raises(WireFormatError, match="a checksum that does not fit"):
        codec.raise_for_damage()
    codec.raise_for_damage()
    wrong = Stamp(levels.digest, 2, 4)
    assert codec.decode_sum([record], layout, levels, [wrong], 1.0).isnan().all()
    with pytest.raises(WireFormatError, match="a header that differs"):
        codec.raise_for_damage()


def test_warm_calls_neither_allocate_nor_wait(codec: CudaCodec) -> None:
    torch = backends.torch()
    levels = levels_of(8)
    layout, stamp = RecordLayout(1 << 20, QuantiserConfig(3, 8192)), Stamp(levels.digest, 2, 3)
    values, out = on_device(gradient(1 << 20, 8192)), torch.empty(1 << 20, device="cuda")

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


def test_wrong_tensors_are_refused(codec: CudaCodec) -> None:
    torch = backends.torch()
    levels = levels_of(8)
    layout, stamp = RecordLayout(8, QuantiserConfig(3, 512)), Stamp(levels.digest, 2, 3)
    for wrong in (
        torch.zeros(8),
        torch.zeros(16, device="cuda")[::2],
        torch.zeros(8, dtype=torch.int32, device="cuda"),
    ):
        with pytest.raises(UnsupportedTensor):
            codec.encode(wrong, layout, levels, KEY, stamp)
    with pytest.raises(AlqError):
        codec.decode_sum([torch.zeros(5, dtype=torch.uint8, device="cuda")], layout, levels, [stamp], 1.0)
