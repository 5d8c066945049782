"""What the GPU codec must do where blocks have widths of their own, checked against the reference.

On a real device and on the emulated one alike, as ``cuda_cases``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from alq_hvd.codec.base import FloatArray
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.codec.keys import StreamKey, stream_key
from alq_hvd.engine.options import Options
from alq_hvd.errors import WireFormatError
from alq_hvd.quantiser.levels_by_width import LevelsByWidth
from alq_hvd.quantiser.record import RecordLayout, Stamp, seal, verify
from tests.support.cuda_cases import REFERENCE, on_device, on_host, split

METHODS: dict[str, dict[str, Any]] = {
    "eden": {"method": "eden"},
    "optimal": {"method": "optimal", "norm": "l2"},
    "largest": {"method": "optimal", "norm": "linf"},
    "rotated": {"method": "optimal", "rotate": True, "dither": False},
    "rotated, dithered": {"method": "optimal", "rotate": True, "dither": True},
    "dithered": {"method": "optimal", "dither": True},
    "clipped": {"method": "alq", "clip": 2.5},
}


def made(method: str, elements: int, bits: float, bucket_size: int) -> tuple[RecordLayout, LevelsByWidth]:
    """Return the layout and the first levels of the second shot, which dithers where it is asked to."""
    given = {**METHODS[method], "bits": bits, "widths": "adaptive", "bucket_size": bucket_size, "exchange": "two_shot"}
    chosen = Options.of(given.pop("method"), **given)
    levels = chosen.levels(1)[1]
    assert isinstance(levels, LevelsByWidth)
    return RecordLayout(elements, chosen.quantiser(1)), levels


def spread(elements: int, seed: int = 0, octaves: float = 4.0) -> FloatArray:
    """Return values over many orders of magnitude: exact zeros, NaN in blocks of every size, squares too large."""
    generator = np.random.default_rng(seed)
    scale = np.repeat(np.exp2(octaves * generator.standard_normal(elements // 64 + 1)), 64)[:elements]
    values = (generator.standard_t(3, elements) * scale * 1e-3).astype(np.float32)
    values[elements // 4 // 1024 * 1024 : elements // 2 // 1024 * 1024] = 0
    values[elements // 3 : elements // 3 + 1] = np.nan
    values[elements - 70 : elements - 68] = 3e38
    return values


def key_of(layout: RecordLayout, rank: int = 3, element: int = 4096, strata: int = 1) -> StreamKey:
    strata = 1 if layout.quantiser.dither else strata
    return stream_key(seed=1, step=2, rank=rank, group=4, shot=int(strata == 1), strata=strata).at(element)


def check(
    codec: CudaCodec, method: str, elements: int, bits: float, bucket_size: int, strata: int = 1, element: int = 4096
) -> None:
    """Encode one tensor, and several with what was lost before; add both up: all as the reference does."""
    layout, levels = made(method, elements, bits, bucket_size)
    stamps = [Stamp(levels.digest, 2, sender) for sender in (3, 1)]
    values, before = spread(elements, elements), spread(elements, 1)[::-1].copy()
    key = key_of(layout, rank=min(3, max(strata - 1, 0)), element=element, strata=strata)
    kept = on_device(codec, before)
    with np.errstate(all="ignore"):
        expected = [REFERENCE.encode(values, layout, levels, key, stamps[0])]
        expected.append(REFERENCE.encode(values, layout, levels, key, stamps[1], before))
        total = REFERENCE.decode_sum(expected, layout, levels, stamps, 0.5)
    records = [codec.encode(split(on_device(codec, values)), layout, levels, key, stamps[0])]
    records.append(codec.encode(on_device(codec, values), layout, levels, key, stamps[1], kept))
    for record, wanted, stamp in zip(records, expected, stamps, strict=True):
        verify(on_host(record), layout, stamp)
        assert np.array_equal(on_host(record), wanted)
    assert np.array_equal(on_host(kept), before)
    summed = codec.decode_sum(records, layout, levels, stamps, 0.5)
    assert np.array_equal(on_host(summed), total, equal_nan=True)
    codec.raise_for_damage()


def check_16_bits(codec: CudaCodec, method: str, dtype: torch.dtype, sizes: tuple[int, ...]) -> None:
    """Encode tensors of 16-bit floats, and write sums into others."""
    layout, levels = made(method, sum(sizes), 1.7, 512)
    stamp, key = Stamp(levels.digest, 2, 3), key_of(layout)
    values = torch.from_numpy(spread(sum(sizes), octaves=1)).nan_to_num(0, 0, 0).clamp(-1, 1).to(dtype)
    with np.errstate(all="ignore"):
        expected = REFERENCE.encode(values.float().numpy(), layout, levels, key, stamp)
        total = REFERENCE.decode_sum([expected] * 3, layout, levels, [stamp] * 3, 0.25)
    parts = [part.clone() for part in values.to(codec.device.name).split(list(sizes))]
    record = codec.encode(parts, layout, levels, key, stamp)
    assert np.array_equal(on_host(record), expected)
    codec.decode_sum([record] * 3, layout, levels, [stamp] * 3, 0.25, parts)
    wanted = torch.from_numpy(total).to(dtype)
    got = torch.cat(parts).cpu()
    assert torch.equal(got.nan_to_num(1e4), wanted.nan_to_num(1e4))
    codec.raise_for_damage()


def check_damage(codec: CudaCodec, method: str) -> None:
    """Refuse widths that cannot be, although the checksum fits, without reading outside of the record."""
    layout, levels = made(method, 9000, 1.5, 512)
    stamp, key = Stamp(levels.digest, 2, 3), key_of(layout)
    with np.errstate(all="ignore"):
        good = REFERENCE.encode(spread(9000), layout, levels, key, stamp)
    changes: dict[str, Any] = {
        "too wide": lambda widths: widths.__setitem__(0, 255),
        "too many": lambda widths: widths.__setitem__(slice(None), 8),
    }
    if levels.lowest > 1:
        changes["no table"] = lambda widths: widths.__setitem__(slice(None), [1] + [0] * (len(widths) - 1))
    for name, change in changes.items():
        bad = good.copy()
        change(layout.widths(bad))
        seal(bad, layout, stamp)
        total = codec.decode_sum([on_device(codec, bad)], layout, levels, [stamp], 1.0)
        with pytest.raises(WireFormatError, match="got one with widths that no such record has on"):
            codec.raise_for_damage()
        assert np.isnan(on_host(total)).all(), name
    for flipped in (5, layout.norms_offset + 1, layout.widths_offset, layout.codes_offset):
        bad = good.copy()
        bad[flipped] ^= 1
        codec.decode_sum([on_device(codec, each) for each in (good, bad)], layout, levels, [stamp] * 2, 1.0)
        with pytest.raises(WireFormatError, match="header" if flipped == 5 else "checksum|widths"):
            codec.raise_for_damage()
    codec.decode_sum([on_device(codec, good)], layout, levels, [stamp], 1.0)
    codec.raise_for_damage()


def check_recode(codec: CudaCodec, method: str) -> None:
    """Take the middle of a two-shot from one budget to another, where ranks' signs are their own or shared."""
    layout, levels = made("eden", 9000, 1.5, 512)
    again, wide = made(method, 9000, 2.5, 1024)
    stamps, stamp = [Stamp(levels.digest, 2, sender) for sender in range(3)], Stamp(wide.digest, 2, 1)
    with np.errstate(all="ignore"):
        records = [
            REFERENCE.encode(spread(9000, each.sender), layout, levels, key_of(layout, each.sender), each)
            for each in stamps
        ]
        total = REFERENCE.decode_sum(records, layout, levels, stamps, 1.0)
        expected = REFERENCE.encode(total, again, wide, key_of(again), stamp)
    given = [on_device(codec, record) for record in records]
    room = torch.empty(9000, device=codec.device.name)
    got = codec.recode(given, layout, levels, stamps, room, again, wide, key_of(again), stamp)
    assert np.array_equal(on_host(got), expected)
    codec.raise_for_damage()
