"""What the GPU codec must do where ranks round together, or sums are dithered, checked against the reference.

On a real device and on the emulated one alike, as ``cuda_cases``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from alq_hvd.codec.base import FloatArray
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.codec.keys import StreamKey, stream_key
from alq_hvd.errors import ConfigurationError, WireFormatError
from alq_hvd.quantiser.config import Norm, QuantiserConfig
from alq_hvd.quantiser.record import RecordLayout, Stamp
from tests.support.cuda_cases import REFERENCE, check_record, gradient, levels_of, on_device, on_host, split

STRATA = (2, 3, 31, 32, 65_521, 65_536)
"""Powers of two and primes, small ones and the largest."""
HELD = 8192 + 700
"""Elements of a chunk that a block holds, and of a short one."""


def ordinary(elements: int, seed: int = 0) -> FloatArray:
    """Return heavy-tailed values without buckets of zeros or NaN, which blocks hold in registers."""
    return (np.random.default_rng(seed).standard_t(3, elements) * 1e-3).astype(np.float32)


def key_of(place: int, strata: int = 1, element: int = 0) -> StreamKey:
    return stream_key(seed=1, step=2, rank=place, group=4, shot=int(strata == 1), strata=strata).at(element)


@dataclass(frozen=True)
class Way:
    """Be one way to encode: a configuration, whose random numbers, and how many elements from which one on."""

    config: QuantiserConfig
    key: StreamKey
    elements: int
    is_ordinary: bool = True

    def values(self, seed: int = 0) -> FloatArray:
        if self.is_ordinary:
            return ordinary(self.elements, seed)
        return gradient(self.elements, self.config.bucket_size, seed)


def together(bits: int) -> list[Way]:
    """Return ways to round together at so many bits: held in registers, in shared memory, and read twice."""
    norms: tuple[Norm, ...] = ("l2", "linf")
    ways = []
    for number, (bucket_size, element, elements) in enumerate(
        [
            *[(1024 << (bits + turn) % 4, 1024 * 8191, HELD) for turn in range(2)],
            (8192, 1024 * 5 + 3, HELD),  # strata are shifted again within a tile
            (512, 2**32 - 700, 2500),  # and where numbers of elements begin again
            (1000, 77, 2300),
        ]
    ):
        for rotate in (False, True):
            parts = STRATA[(bits + number) % len(STRATA)]
            key = key_of((parts - 1) * (bits % 3) // 2, parts, element)
            config = QuantiserConfig(bits, bucket_size, norms[(bits + number) % 2], rotate=rotate)
            ways.append(Way(config, key, elements, is_ordinary=number < 3))
    return ways


def dithered(bits: int) -> list[Way]:
    """Return ways to dither at so many bits, likewise."""
    return [
        replace(way, config=replace(way.config, dither=True), key=key_of(bits, element=way.key.first_element))
        for way in together(bits)
    ]


def check_way(codec: CudaCodec, way: Way) -> None:
    """Encode and decode as the reference does, the residual too; float16 and bfloat16 as they lie."""
    layout, levels = RecordLayout(way.elements, way.config), levels_of(2**way.config.bits, way.config.bits)
    stamp = Stamp(levels.digest, 2, 3)
    check_record(codec, way.values(), layout, levels, way.key, stamp)
    residual = np.random.default_rng(1).normal(size=way.elements).astype(np.float32) * np.float32(1e-3)
    kept = on_device(codec, residual)
    record = codec.encode(split(on_device(codec, way.values())), layout, levels, way.key, stamp, residual=kept)
    assert np.array_equal(on_host(record), REFERENCE.encode(way.values(), layout, levels, way.key, stamp, residual))
    assert np.array_equal(on_host(kept), residual)


def check_16_bits(codec: CudaCodec, way: Way, dtype: Any) -> None:
    """Take 16-bit floats as they are, and give sums rounded to them."""
    layout, levels = RecordLayout(way.elements, way.config), levels_of(2**way.config.bits)
    stamps = [Stamp(levels.digest, 2, sender) for sender in range(3)]
    tensors = [split(on_device(codec, way.values(sender)).to(dtype)) for sender in range(3)]
    keys = [replace(way.key, strata=way.key.strata._replace(place=place % way.key.strata.parts)) for place in range(3)]
    records, expected = [], []
    for given, key, stamp in zip(tensors, keys, stamps, strict=True):
        records.append(codec.encode(given, layout, levels, key, stamp))
        expected.append(REFERENCE.encode(on_host(torch.cat(given).float()), layout, levels, key, stamp))
        assert np.array_equal(on_host(records[-1]), expected[-1])
    outputs = [torch.empty_like(each) for each in tensors[0]]
    codec.decode_sum(records, layout, levels, stamps, 1 / 3, outputs)
    wanted = torch.from_numpy(REFERENCE.decode_sum(expected, layout, levels, stamps, 1 / 3)).to(dtype)
    assert torch.equal(torch.cat(outputs).cpu().nan_to_num(7.0), wanted.nan_to_num(7.0))


def check_recode(codec: CudaCodec, bits: int, bucket_size: int, *, rotate: bool, first: bool) -> None:
    """Take the middle of a two-shot whose second hop is dithered, and the ``first`` too if asked."""
    plain = QuantiserConfig(bits, bucket_size, rotate=rotate)
    configs = [replace(plain, dither=first), replace(plain, dither=True)]
    layout, again = (RecordLayout(HELD, config) for config in configs)
    levels = levels_of(2**bits)
    stamps, strata = [Stamp(levels.digest, 2, sender) for sender in range(3)], 1 if first else 3
    keys = [key_of(place, strata, 8192) for place in range(3)]
    whole = [
        REFERENCE.encode(ordinary(HELD, k.strata.place), layout, levels, k, s)
        for k, s in zip(keys, stamps, strict=True)
    ]
    records, room = [on_device(codec, record) for record in whole], torch.empty(HELD, device=codec.device.name)
    key = key_of(1, element=8192)
    got = codec.recode(records, layout, levels, stamps, room, again, levels, key, stamps[1])
    summed = REFERENCE.decode_sum(whole, layout, levels, stamps, 1.0)
    expected = REFERENCE.encode(summed, again, levels, key, stamps[1])
    assert np.array_equal(on_host(got), expected)
    decoded = codec.decode_sum([got], again, levels, stamps[1:2], 1.0)
    assert np.array_equal(on_host(decoded), REFERENCE.decode_sum([expected], again, levels, stamps[1:2], 1.0))
    codec.raise_for_damage()


def check_damage(codec: CudaCodec, way: Way) -> None:
    """Find a damaged word among those that name the draws, and refuse a dither of ranks that share them out."""
    layout, levels = RecordLayout(way.elements, way.config), levels_of(2**way.config.bits)
    stamp, values = Stamp(levels.digest, 2, 3), on_device(codec, way.values())
    record = codec.encode(values, layout, levels, way.key, stamp)
    for place in range(layout.draws_offset, layout.norms_offset, 4):
        record[place] ^= 1
        codec.decode_sum([record], layout, levels, [stamp], 1.0)
        with pytest.raises(WireFormatError, match="got one with a checksum that does not fit the bytes"):
            codec.raise_for_damage()
        record[place] ^= 1
    with pytest.raises(ConfigurationError, match="dither: expected a rank that draws for itself, got one of 8 strata"):
        codec.encode(values, layout, levels, key_of(0, 8), stamp)
