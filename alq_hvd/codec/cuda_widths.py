"""Blocks that have a width each: the launches that share bits out, encode and decode, and wait for nothing."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from alq_hvd import backends
from alq_hvd.codec import cuda_names, cuda_structs
from alq_hvd.codec.cuda_arguments import Memory
from alq_hvd.codec.cuda_device import Device
from alq_hvd.codec.cuda_kernels import WARPS
from alq_hvd.codec.cuda_structs import Struct
from alq_hvd.codec.keys import StreamKey, random_bits
from alq_hvd.quantiser.levels_by_width import LevelsByWidth
from alq_hvd.quantiser.record import LANES, RecordLayout
from alq_hvd.quantiser.widths import DRAW_INDEX, Ladder


def encode(
    device: Device,
    memory: Memory,
    layout: RecordLayout,
    levels: LevelsByWidth,
    group: Struct,
    tensors: Struct,
    kind: str,
    key: StreamKey,
    strata: int,
    chunk: int,
    record: int,
    residual: int,
) -> None:
    """Write norms, widths and codes: measure energies, share bits out, read again and quantise.

    Args:
        group, tensors: as kernels take them.
        kind: of the tensors' elements.
        strata: number of those that the encoder draws from.
        chunk: elements that a block of threads takes, whole buckets.
        record, residual: addresses; the residual's is 0 when there is none.
    """
    blocks, row_bytes = -(-layout.elements // chunk), cuda_structs.row_bytes(layout.quantiser)
    stride = cuda_structs.places_of(layout)
    room = _integers(device, layout.blocks + stride)
    keys, counts = int(room.data_ptr()), memory.key_counts()
    placing = cuda_structs.placing(layout, levels, keys + 4 * layout.blocks)
    measured = (group, tensors, np.int32(chunk), keys, counts, record)
    shared = chunk // LANES * cuda_structs.ROW_BYTES
    device.launch(cuda_names.of_kind("block_energies", kind), blocks, measured, shared)
    shares = (group, placing, _ladder(levels, residual == 0), np.uint32(_draw(key)), keys, counts, record)
    device.launch(cuda_names.SHARE_OUT, 1, shares)
    arguments = (
        *(group, tensors, memory.tables_by_width(levels, layout.quantiser, strata), placing, keys),
        *(cuda_structs.key(key.first, key.second), np.uint32(key.first_element), np.int32(chunk), record, residual),
    )
    device.launch(cuda_names.encode_by_width(kind, layout.quantiser), blocks, arguments, chunk // LANES * row_bytes)


def decode_sum(
    device: Device,
    memory: Memory,
    layout: RecordLayout,
    levels: LevelsByWidth,
    described: Struct,
    scale: float,
    checks: int,
    status: int,
    out: tuple[int, int, int],
    kind: str,
    chunk: int,
) -> None:
    """Write ``scale`` times the sum of records, and note what is wrong with them.

    Args:
        described: the records, as kernels take them.
        checks, status: addresses of what words add up to, and of the word that damage is noted in.
        out: the addresses of the tensors and of their ends, and the number of tensors.
        chunk: elements that a block of threads rotates back.
    """
    config, count = layout.quantiser, described["count"].item()
    room = _integers(device, count * cuda_structs.places_of(layout))
    placing = cuda_structs.placing(layout, levels, int(room.data_ptr()))
    group = cuda_structs.group(layout, levels.tables[0])
    device.launch(cuda_names.PLACE_RECORDS, count, (described, group, placing, checks))
    data, ends, tensors = out
    arguments = (
        *(described, group, memory.tables_by_width(levels, config, 1), placing),
        *(np.float32(scale), data, ends, np.uint32(tensors), checks),
    )
    name = cuda_names.decode_by_width(kind, config)
    if config.rotate:
        shared = chunk // LANES * cuda_structs.summed_row_bytes(config)
        device.launch(name, -(-layout.elements // chunk), (*arguments, np.int32(chunk)), shared)
    else:
        device.launch(name, cuda_structs.decode_blocks(layout.elements, WARPS), arguments)
    device.launch(cuda_names.FINISH_DECODE, 1, (described, placing, checks, status))


def _draw(key: StreamKey) -> int:
    """Return the number, 0 to 65535, that decides which blocks are kept."""
    return int(random_bits(key, np.array([(key.first_element + DRAW_INDEX) % 2**32], dtype=np.uint32))[0]) >> 16


@lru_cache(maxsize=16)
def _ladder(levels: LevelsByWidth, keeps_all: bool) -> Struct:
    return cuda_structs.ladder(Ladder.of(levels, keeps_all))


def _integers(device: Device, length: int) -> Any:
    return backends.torch().empty(length, dtype=backends.torch().int32, device=device.name)
