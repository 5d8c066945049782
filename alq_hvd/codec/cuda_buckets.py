"""Buckets that do not fit the fused kernels, of any size: several launches, through memory of the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from alq_hvd import backends
from alq_hvd.codec import cuda_names, cuda_structs
from alq_hvd.codec.cuda_arguments import Memory
from alq_hvd.codec.cuda_device import Device, Tensor
from alq_hvd.codec.cuda_kernels import WARPS
from alq_hvd.codec.cuda_structs import Struct
from alq_hvd.codec.keys import StreamKey
from alq_hvd.quantiser.record import RecordLayout


def norms_and_limits(device: Device, group: Struct, tensors: Struct, kind: str, buckets: int) -> tuple[Tensor, Tensor]:
    """Return float32[buckets] norms, and the magnitudes that clipping leaves."""
    norms, limits = _floats(device, 2, buckets)
    arguments = (group, tensors, _address(norms), _address(limits))
    device.launch(cuda_names.of_kind("bucket_norms", kind), buckets, arguments)
    return norms, limits


def rotated(device: Device, layout: RecordLayout, group: Struct, tensors: Struct, kind: str, first: int) -> Tensor:
    """Return float32[elements]: the gradient, its residual added, with rotated buckets.

    ``first`` is the element of the fusion group at which the gradient starts.
    """
    (turned,) = _floats(device, 1, layout.elements)
    blocks, chunk, fits, shared = _workplace(device, layout)
    arguments = (group, tensors, np.uint32(first), np.int32(chunk), _address(turned))
    device.launch(cuda_names.in_workplace("rotate_group", kind, fits), blocks, arguments, shared)
    return turned


def encode(
    device: Device,
    memory: Memory,
    layout: RecordLayout,
    group: Struct,
    tensors: Struct,
    kind: str,
    tables: int,
    key: StreamKey,
    record: int,
    residual: int,
) -> None:
    """Write norms and codes: rotate where asked, take norms and scales, read again and quantise.

    ``tables``, ``record`` and ``residual`` are addresses; the residual's is 0 when there is none.
    """
    config, given, given_kind, kept = layout.quantiser, tensors, kind, residual
    if config.rotate:
        turned = rotated(device, layout, group, tensors, kind, key.first_element)
        tensors, kind = cuda_structs.tensors(*memory.address(turned), 0, 1), "float"
        if residual:
            (seen,) = _floats(device, 1, layout.elements)
            kept = _address(seen)
    norms, limits = norms_and_limits(device, group, tensors, kind, layout.buckets)
    sent = norms
    if config.rounding == "nearest":
        (sent,) = _floats(device, 1, layout.buckets)
        scaled = (group, tensors, tables, _address(norms), _address(limits), _address(sent))
        device.launch(cuda_names.projection_scales(config.bits), layout.buckets, scaled)
    arguments = (
        *(group, tensors, tables, cuda_structs.key(key.first, key.second), np.uint32(key.first_element)),
        *(_address(norms), _address(sent), _address(limits)),
        *(np.uint32(layout.codes_offset // 4), record, kept),
    )
    blocks = cuda_structs.decode_blocks(layout.elements, WARPS)
    device.launch(cuda_names.with_norms(kind, config.bits), blocks, arguments)
    if config.rotate and residual:
        blocks, chunk, fits, shared = _workplace(device, layout)
        lost = (group, given, np.uint32(key.first_element), np.int32(chunk), kept, residual)
        device.launch(cuda_names.in_workplace("keep_lost", given_kind, fits), blocks, lost, shared)


def decode_runs(
    device: Device,
    layout: RecordLayout,
    described: Struct,
    group: Struct,
    tables: int,
    scale: float,
    checks: int,
    out: tuple[int, int, int],
    kind: str,
) -> None:
    """Write ``scale`` times the sum of records of rotated buckets: two launches a record, empty but for runs' firsts.

    Only the device knows which neighbours share their signs. ``out`` is the addresses and the number of tensors.
    """
    part, total = _floats(device, 2, layout.elements)
    tiles = cuda_structs.decode_blocks(layout.elements, WARPS)
    blocks, chunk, fits, shared = _workplace(device, layout)
    data, ends, count = out
    for index in range(described["count"].item()):
        first = np.uint32(index)
        summed = (described, first, group, tables, checks, _address(part))
        device.launch(cuda_names.sum_run(layout.quantiser), tiles, summed)
        added = (described, first, group, np.int32(chunk), _address(part), _address(total), np.float32(scale))
        device.launch(
            cuda_names.in_workplace("add_run", kind, fits), blocks, (*added, data, ends, np.uint32(count)), shared
        )


def _workplace(device: Device, layout: RecordLayout) -> tuple[int, int, bool, int]:
    """Return the number of blocks, elements a block, whether they fit shared memory, and its bytes."""
    chunk, shared = cuda_structs.workplace(layout.quantiser.bucket_size, device.shared_bytes)
    return -(-layout.elements // chunk), chunk, shared > 0, shared


def _floats(device: Device, count: int, length: int) -> Any:
    return backends.torch().empty((count, length), dtype=backends.torch().float32, device=device.name)


def _address(tensor: Tensor) -> int:
    return int(tensor.data_ptr())
