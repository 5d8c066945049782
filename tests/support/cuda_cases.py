"""What the GPU codec must do, checked against the reference: on a real device and on the emulated one alike."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from alq_hvd.codec.base import FloatArray
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.codec.keys import StreamKey, stream_key
from alq_hvd.codec.reference import ReferenceCodec
from alq_hvd.errors import ConfigurationError, UnsupportedTensor, WireFormatError
from alq_hvd.quantiser.config import Norm, QuantiserConfig
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.record import RecordLayout, Stamp, verify

REFERENCE = ReferenceCodec()
KEY = stream_key(seed=1, step=2, rank=3, group=4, shot=0)


def gradient(elements: int, bucket_size: int, seed: int = 0) -> FloatArray:
    """Return heavy-tailed values, with a bucket of zeros and one with NaN."""
    values = (np.random.default_rng(seed).standard_t(3, elements) * 1e-3).astype(np.float32)
    values[bucket_size : 2 * bucket_size] = 0
    values[3 * bucket_size : 3 * bucket_size + 1] = np.nan
    return values


def levels_of(count: int, seed: int = 0) -> Levels:
    inner = np.random.default_rng(seed).uniform(-1, 1, count - 2)
    return Levels(np.sort(np.concatenate([[-1.0, 1.0], inner])).astype(np.float32))


def on_device(codec: CudaCodec, values: np.ndarray) -> Any:
    return torch.from_numpy(values.copy()).to(codec.device.name)


def on_host(tensor: Any) -> np.ndarray:
    array: np.ndarray = tensor.cpu().numpy()
    return array


def split(tensor: Any) -> list[Any]:
    """Return the same values as tensors at places of their own: a third, one, none, the rest."""
    elements = tensor.numel()
    cuts = [0, elements // 3, min(elements // 3 + 1, elements), min(elements // 3 + 1, elements), elements]
    return [tensor[a:b].clone() for a, b in itertools.pairwise(cuts)]


def check_bytes(codec: CudaCodec, bits: int, norm: Norm, bucket_size: int, elements: int) -> None:
    """Encode one tensor and several, and decode what came out: the bytes and the floats of the reference."""
    clip = 2.5 if bits % 3 == 0 else None
    levels = levels_of(max(2, 2**bits - bits % 2), bits)
    layout, stamp = RecordLayout(elements, QuantiserConfig(bits, bucket_size, norm, clip)), Stamp(levels.digest, 2, 3)
    values = gradient(elements, bucket_size, bits)
    check_record(codec, values, layout, levels, KEY, stamp)


def check_record(
    codec: CudaCodec, values: FloatArray, layout: RecordLayout, levels: Levels, key: StreamKey, stamp: Stamp
) -> None:
    """Encode ``values`` as one tensor and as several, and decode the record twice over, as the reference does."""
    expected = REFERENCE.encode(values, layout, levels, key, stamp)
    tensor = on_device(codec, values)
    for given in (tensor, split(tensor)):
        record = codec.encode(given, layout, levels, key, stamp)
        verify(on_host(record), layout, stamp)
        assert np.array_equal(on_host(record), expected)
    summed = codec.decode_sum([record, record], layout, levels, [stamp, stamp], 0.5)
    wanted = REFERENCE.decode_sum([expected, expected], layout, levels, [stamp, stamp], 0.5)
    assert np.array_equal(on_host(summed), wanted, equal_nan=True)
    codec.raise_for_damage()


def check_divisions(codec: CudaCodec, scale: float) -> None:
    """Encode magnitudes at which a quotient by reciprocal is near its limits."""
    values = (np.random.default_rng(0).standard_t(3, 2048) * scale).astype(np.float32)
    levels = levels_of(8)
    layout, stamp = RecordLayout(2048, QuantiserConfig(3, 512)), Stamp(levels.digest, 2, 3)
    record = codec.encode(on_device(codec, values), layout, levels, KEY, stamp)
    assert np.array_equal(on_host(record), REFERENCE.encode(values, layout, levels, KEY, stamp))


def check_16_bit_tensors(codec: CudaCodec, dtype: Any, bucket_size: int, sizes: tuple[int, ...]) -> None:
    """Take 16-bit floats as they are, widened exactly, and give 16-bit floats back, rounded to the nearest."""
    tensors = [on_device(codec, gradient(size, bucket_size, size)).to(dtype) for size in sizes]
    if sizes[0] > 8:
        tensors[0][5:8] = torch.tensor([1e-7, 6e-8, -3e-6], dtype=dtype)  # subnormal halves
    flat = on_host(torch.cat(tensors).float())
    levels = levels_of(8)
    layout, stamp = RecordLayout(flat.size, QuantiserConfig(3, bucket_size)), Stamp(levels.digest, 2, 3)
    record = codec.encode(tensors, layout, levels, KEY, stamp)
    expected = REFERENCE.encode(flat, layout, levels, KEY, stamp)
    assert np.array_equal(on_host(record), expected)
    outputs = [torch.empty_like(tensor) for tensor in tensors]
    codec.decode_sum([record, record], layout, levels, [stamp, stamp], 0.5, outputs)
    wanted = torch.from_numpy(REFERENCE.decode_sum([expected, expected], layout, levels, [stamp, stamp], 0.5))
    assert torch.equal(torch.cat(outputs).cpu().nan_to_num(7.0), wanted.to(dtype).nan_to_num(7.0))


def check_decode_sum(codec: CudaCodec, bits: int, bucket_size: int, elements: int) -> None:
    """Sum three records in order into several tensors; then damage a payload, and expect another sender."""
    levels, layout = levels_of(2**bits), RecordLayout(elements, QuantiserConfig(bits, bucket_size))
    stamps = [Stamp(levels.digest, 2, sender) for sender in range(3)]
    whole = [
        REFERENCE.encode(gradient(elements, bucket_size, 10 + stamp.sender), layout, levels, KEY, stamp)
        for stamp in stamps
    ]
    records = [on_device(codec, record) for record in whole]
    outputs = split(torch.zeros(elements, device=codec.device.name))
    returned = codec.decode_sum(records, layout, levels, stamps, 1 / 3, outputs)
    assert returned is outputs
    expected = REFERENCE.decode_sum(whole, layout, levels, stamps, 1 / 3)
    assert np.array_equal(on_host(torch.cat(outputs)), expected, equal_nan=True)
    codec.raise_for_damage()

    records[1][layout.codes_offset] ^= 1
    codec.decode_sum(records, layout, levels, stamps, 1 / 3, outputs)
    with pytest.raises(WireFormatError, match="got one with a checksum that does not fit the bytes"):
        codec.raise_for_damage()
    records[1][layout.codes_offset] ^= 1
    codec.decode_sum(records, layout, levels, [*stamps[:2], Stamp(levels.digest, 2, 7)], 1 / 3, outputs)
    assert torch.cat(outputs).isnan().all()
    with pytest.raises(WireFormatError, match="got one with a header that differs"):
        codec.raise_for_damage()
    codec.raise_for_damage()  # told once


def check_recode(codec: CudaCodec, widths: tuple[int, int], bucket_size: int, elements: int) -> None:
    """Take the middle of a two-shot: what decoding and encoding again would give, under another table."""
    levels, wide = levels_of(2 ** widths[0]), levels_of(2 ** widths[1], 1)
    layout = RecordLayout(elements, QuantiserConfig(widths[0], 512))
    again = RecordLayout(elements, QuantiserConfig(widths[1], bucket_size, "linf"))
    stamps = [Stamp(levels.digest, 2, sender) for sender in range(3)]
    whole = [REFERENCE.encode(gradient(elements, 512, stamp.sender), layout, levels, KEY, stamp) for stamp in stamps]
    stamp = Stamp(wide.digest, 2, 1)
    records = [on_device(codec, record) for record in whole]
    room = torch.empty(elements, device=codec.device.name)
    got = codec.recode(records, layout, levels, stamps, room, again, wide, KEY, stamp)
    summed = REFERENCE.decode_sum(whole, layout, levels, stamps, 1.0)
    assert np.array_equal(on_host(got), REFERENCE.encode(summed, again, wide, KEY, stamp))
    codec.raise_for_damage()


def check_error_feedback(codec: CudaCodec, bucket_size: int, clip: float | None, elements: int) -> None:
    """Keep what was lost, clipped coordinates included."""
    layout = RecordLayout(elements, QuantiserConfig(3, bucket_size, clip=clip))
    check_residual(codec, layout, levels_of(8), KEY)


def check_residual(codec: CudaCodec, layout: RecordLayout, levels: Levels, key: StreamKey) -> None:
    """Add what was lost before, and keep what is lost now, in the gradient's own coordinates: nothing beside NaN."""
    values = gradient(layout.elements, layout.quantiser.bucket_size)
    residual = np.random.default_rng(1).normal(size=layout.elements).astype(np.float32) * np.float32(1e-3)
    stamp, kept = Stamp(levels.digest, 2, 3), on_device(codec, residual)
    record = on_host(codec.encode(split(on_device(codec, values)), layout, levels, key, stamp, residual=kept))
    expected = residual.copy()
    assert np.array_equal(record, REFERENCE.encode(values, layout, levels, key, stamp, expected))
    assert np.array_equal(on_host(kept), expected)


def check_statistics(codec: CudaCodec, config: QuantiserConfig, elements: int) -> None:
    """Count as the reference does; float64 sums may differ in their order."""
    values = gradient(elements, config.bucket_size)
    expected = REFERENCE.statistics(values, config, 2)
    got = codec.statistics(split(on_device(codec, values)), config, 2)
    for name in ("coordinates", "zero_buckets", "non_finite_buckets"):
        assert getattr(expected, name) == getattr(got, name)
    for name in ("mass", "first_moment", "second_moment", "pooled_sum", "pooled_squares", "buckets"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-9, atol=1e-12)


def check_refusals(codec: CudaCodec, foreign: Any) -> None:
    """Refuse ``foreign``, float32[8] on another device, and whatever else the kernels would misread."""
    levels, name = levels_of(8), codec.device.name
    layout, stamp = RecordLayout(8, QuantiserConfig(3, 512)), Stamp(levels.digest, 2, 3)
    strided, whole = torch.zeros(16, device=name)[::2], torch.zeros(8, dtype=torch.int32, device=name)
    mixed = [torch.zeros(4, device=name), torch.zeros(4, dtype=torch.float16, device=name)]
    for wrong in (foreign, strided, whole, mixed, torch.zeros(7, device=name)):
        with pytest.raises(UnsupportedTensor, match="expected"):
            codec.encode(wrong, layout, levels, KEY, stamp)
    short = torch.zeros(5, dtype=torch.uint8, device=name)
    with pytest.raises(WireFormatError, match=rf"record from rank 3 at step 2: expected contiguous .* on {name}"):
        codec.decode_sum([short], layout, levels, [stamp], 1.0)
    with pytest.raises(ConfigurationError, match="one stamp a record"):
        codec.decode_sum([short], layout, levels, [], 1.0)
