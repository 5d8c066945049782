"""What the GPU codec must do with rotated buckets, checked against the reference: on a real and an emulated device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.codec.keys import stream_key
from alq_hvd.errors import WireFormatError
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.policies.lloyd_max import lloyd_max
from alq_hvd.quantiser.record import RecordLayout, Stamp
from tests.support.cuda_cases import (
    KEY,
    REFERENCE,
    check_record,
    check_residual,
    gradient,
    levels_of,
    on_device,
    on_host,
    split,
)

KINDS = ("l2", "linf", "nearest")
"""Stochastic rounding with either norm, and rounding to the nearest, which rotates twice."""
STARTED = KEY.at(3 * 2**20 + 5)
"""A record that is not the first of its fusion group."""


def config_of(kind: str, bits: int, bucket_size: int, clip: float | None = None) -> QuantiserConfig:
    if kind == "nearest":
        return QuantiserConfig(bits, bucket_size, "l2", clip, rotate=True, rounding="nearest")
    return QuantiserConfig(bits, bucket_size, kind, clip, rotate=True)  # type: ignore[arg-type]


def table_of(kind: str, bits: int, seed: int = 0) -> Levels:
    return lloyd_max(bits) if kind == "nearest" else levels_of(max(2, 2**bits - bits % 2), seed)


def check_bytes(codec: CudaCodec, kind: str, bits: int, bucket_size: int, elements: int) -> None:
    """Encode one tensor and several, and decode runs of records: the bytes and the floats of the reference."""
    config = config_of(kind, bits, bucket_size, 2.5 if bits % 3 == 0 else None)
    levels, layout = table_of(kind, bits, bits), RecordLayout(elements, config)
    stamp, values = Stamp(levels.digest, 2, 3), gradient(elements, bucket_size, bits)
    check_record(codec, values, layout, levels, STARTED, stamp)


def check_runs(codec: CudaCodec, kind: str, bits: int, bucket_size: int, elements: int) -> None:
    """Sum records whose signs differ, or not, in every order into several tensors; then damage what names the signs."""
    levels, layout = table_of(kind, bits), RecordLayout(elements, config_of(kind, bits, bucket_size))
    stamps = [Stamp(levels.digest, 2, sender) for sender in (0, 0, 1, 2, 1)]
    whole = []
    for stamp in stamps:  # rank 2 is a step ahead: its signs differ even where ranks share them
        key = stream_key(seed=1, step=2 + (stamp.sender == 2), rank=stamp.sender, group=4, shot=0).at(bucket_size * 3)
        whole.append(REFERENCE.encode(gradient(elements, bucket_size, stamp.sender), layout, levels, key, stamp))
    records = [on_device(codec, record) for record in whole]
    for count in (5, 2, 1):
        outputs = split(torch.zeros(elements, device=codec.device.name))
        codec.decode_sum(records[:count], layout, levels, stamps[:count], 1 / 3, outputs)
        expected = REFERENCE.decode_sum(whole[:count], layout, levels, stamps[:count], 1 / 3)
        assert np.array_equal(on_host(torch.cat(outputs)), expected, equal_nan=True)
        codec.raise_for_damage()
    records[3][36] ^= 1
    codec.decode_sum(records, layout, levels, stamps, 1 / 3)
    with pytest.raises(WireFormatError, match="got one with a checksum that does not fit the bytes"):
        codec.raise_for_damage()
    records[3][36] ^= 1
    stamps[4] = replace(stamps[4], sender=7)
    assert codec.decode_sum(records, layout, levels, stamps, 1 / 3).isnan().all()
    with pytest.raises(WireFormatError, match="got one with a header that differs"):
        codec.raise_for_damage()


def check_16_bit_tensors(
    codec: CudaCodec, kind: str, dtype: torch.dtype, bucket_size: int, sizes: tuple[int, ...]
) -> None:
    """Rotate 16-bit floats widened exactly, and give 16-bit floats back, rounded once."""
    tensors = [on_device(codec, gradient(size, bucket_size, size)).to(dtype) for size in sizes]
    flat = on_host(torch.cat(tensors).float())
    levels, layout = table_of(kind, 3), RecordLayout(flat.size, config_of(kind, 3, bucket_size))
    stamps = [Stamp(levels.digest, 2, sender) for sender in range(2)]
    keys = [stream_key(seed=1, step=2, rank=sender, group=4, shot=0) for sender in range(2)]
    expected = [REFERENCE.encode(flat, layout, levels, key, stamp) for key, stamp in zip(keys, stamps, strict=True)]
    records = [codec.encode(tensors, layout, levels, key, stamp) for key, stamp in zip(keys, stamps, strict=True)]
    for record, wanted in zip(records, expected, strict=True):
        assert np.array_equal(on_host(record), wanted)
    outputs = [torch.empty_like(tensor) for tensor in tensors]
    codec.decode_sum(records, layout, levels, stamps, 0.5, outputs)
    total = torch.from_numpy(REFERENCE.decode_sum(expected, layout, levels, stamps, 0.5))
    assert torch.equal(torch.cat(outputs).cpu().nan_to_num(7.0), total.to(dtype).nan_to_num(7.0))


def check_recode(codec: CudaCodec, kinds: tuple[str, str], bucket_sizes: tuple[int, int], elements: int) -> None:
    """Take the middle of a two-shot, with either shot rotated: what decoding and encoding again would give."""
    layouts = [
        RecordLayout(elements, QuantiserConfig(bits, size) if kind == "plain" else config_of(kind, bits, size))
        for kind, bits, size in zip(kinds, (3, 8), bucket_sizes, strict=True)
    ]
    levels, wide = (table_of(kind, bits) for kind, bits in zip(kinds, (3, 8), strict=True))
    stamps = [Stamp(levels.digest, 2, sender) for sender in range(3)]
    keys = [stream_key(seed=1, step=2, rank=sender, group=4, shot=0).at(8192) for sender in range(3)]
    whole = [
        REFERENCE.encode(gradient(elements, 512, s.sender), layouts[0], levels, key, s)
        for key, s in zip(keys, stamps, strict=True)
    ]
    stamp, key = Stamp(wide.digest, 2, 1), stream_key(seed=1, step=2, rank=1, group=4, shot=1).at(8192)
    records = [on_device(codec, record) for record in whole]
    room = torch.empty(elements, device=codec.device.name)
    got = codec.recode(records, layouts[0], levels, stamps, room, layouts[1], wide, key, stamp)
    summed = REFERENCE.decode_sum(whole, layouts[0], levels, stamps, 1.0)
    assert np.array_equal(on_host(got), REFERENCE.encode(summed, layouts[1], wide, key, stamp))
    codec.raise_for_damage()


def check_error_feedback(codec: CudaCodec, kind: str, bucket_size: int, elements: int) -> None:
    """Keep what was lost."""
    layout = RecordLayout(elements, config_of(kind, 3, bucket_size))
    check_residual(codec, layout, table_of(kind, 3), STARTED)
