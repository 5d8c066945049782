"""Blocks of widths of their own whose buckets no kernel takes, done by the codec of the host: it waits for the device.

Those are buckets of less than 64 coordinates, and such as are too large for the shared memory of a block of threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alq_hvd import backends
from alq_hvd.codec.base import Codec
from alq_hvd.codec.cuda_device import Tensor
from alq_hvd.codec.device_arrays import DeviceArrays, Parts
from alq_hvd.codec.keys import StreamKey
from alq_hvd.codec.native import NativeCodec
from alq_hvd.codec.reference import ReferenceCodec
from alq_hvd.quantiser.levels_by_width import AnyLevels
from alq_hvd.quantiser.record import RecordLayout, Stamp


def encode(
    arrays: DeviceArrays,
    parts: Sequence[Tensor],
    layout: RecordLayout,
    levels: AnyLevels,
    key: StreamKey,
    stamp: Stamp,
    residual: Tensor | None,
) -> Tensor:
    """Return the record of ``parts`` on their device; see ``Codec.encode``."""
    values = arrays.on_host(arrays.as_bytes(Parts(tuple(parts)))).view(np.float32)
    kept = None if residual is None else arrays.on_host(residual)
    record = _codec().encode(values, layout, levels, key, stamp, kept)
    if residual is not None:
        residual.copy_(backends.torch().from_numpy(kept))
    return arrays.arrive([record])[0]


def decode_sum(
    arrays: DeviceArrays,
    records: Sequence[Tensor],
    layout: RecordLayout,
    levels: AnyLevels,
    stamps: Sequence[Stamp],
    scale: float,
    out: Sequence[Tensor],
) -> None:
    """Write to ``out`` the scaled sum of records of the device; see ``Codec.decode_sum``, also for what it raises."""
    total = _codec().decode_sum([arrays.on_host(each) for each in records], layout, levels, stamps, 1.0)
    arrays.scaled(arrays.as_bytes(arrays.copied(total)), scale, Parts(tuple(out)))


def _codec() -> Codec:
    return NativeCodec() if backends.available("alq_hvd.codec._native") else ReferenceCodec()
