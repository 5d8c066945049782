"""Codecs, level tables, keys and gradients that the tests of the codecs share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alq_hvd.codec.base import Codec, FloatArray, Record
from alq_hvd.codec.keys import StreamKey, stream_key
from alq_hvd.codec.native import NativeCodec, instruction_sets
from alq_hvd.codec.reference import ReferenceCodec
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.record import RecordLayout, Stamp

NATIVE = {name: NativeCodec(name) for name in instruction_sets()}
CODECS: dict[str, Codec] = {"reference": ReferenceCodec(), **NATIVE}
KEY = stream_key(seed=1, step=2, rank=3, group=4, shot=0)


def uneven_levels(count: int, seed: int = 0) -> Levels:
    """Return ``count`` levels at random places between the ends -1 and 1."""
    inner = np.random.default_rng(seed).uniform(-1, 1, count - 2)
    return Levels(np.sort(np.concatenate([[-1.0, 1.0], inner])))


def uniform_levels(bits: int) -> Levels:
    return Levels(np.linspace(-1, 1, 2**bits, dtype=np.float32))


def heavy_tailed(elements: int, seed: int = 0, scale: float = 1e-3) -> FloatArray:
    """Return float32[elements] with tails as heavy as a gradient's."""
    return (np.random.default_rng(seed).standard_t(3, elements) * scale).astype(np.float32)


def same_floats(one: FloatArray, other: FloatArray) -> bool:
    """Return whether two arrays are equal to the bit, but for the sign and the payload of a NaN."""
    number = ~np.isnan(one)
    return np.array_equal(number, ~np.isnan(other)) and one[number].tobytes() == other[number].tobytes()


def stamp_for(levels: Levels, sender: int = 3) -> Stamp:
    return Stamp(levels.digest, step=2, sender=sender)


def encode(
    codec: Codec, values: Sequence[float] | FloatArray, config: QuantiserConfig, levels: Levels, key: StreamKey = KEY
) -> Record:
    array = np.asarray(values, dtype=np.float32)
    return codec.encode(array, RecordLayout(array.size, config), levels, key, stamp_for(levels))


def decode(codec: Codec, record: Record, elements: int, config: QuantiserConfig, levels: Levels) -> FloatArray:
    return codec.decode_sum([record], RecordLayout(elements, config), levels, [stamp_for(levels)], 1.0)


def round_trip(
    codec: Codec, values: Sequence[float] | FloatArray, config: QuantiserConfig, levels: Levels, key: StreamKey = KEY
) -> FloatArray:
    return decode(codec, encode(codec, values, config, levels, key), len(values), config, levels)
