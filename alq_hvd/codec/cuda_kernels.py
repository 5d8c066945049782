"""Compile and start the CUDA kernels of ``cuda/codec.cu`` through cupy, on PyTorch's current stream."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from alq_hvd import backends
from alq_hvd.codec import cuda_structs
from alq_hvd.codec.cuda_structs import Struct

FOLDER = Path(__file__).parent
SOURCE = '#include "codec.cu"\n'
OPTIONS = ("-std=c++17", "--fmad=false", f"-I{FOLDER / 'csrc'}", f"-I{FOLDER / 'cuda'}")
"""Without --fmad=false products and sums would fuse, and the bytes would differ from every other codec's."""
THREADS = 256
WARPS = THREADS // 32


@cache
def kernel(name: str, device: int, dynamic_shared_bytes: int = 0) -> Any:
    """Return the compiled kernel ``name``, such as ``alq::encode<float, 3>``; cupy keeps it on disk.

    Args:
        name: a kernel of ``cuda/codec.cu`` with its template arguments.
        device: number of the CUDA device, which must be current: a function belongs to one device.
        dynamic_shared_bytes: the most that one launch will ask for; above 48 KiB it must be announced.
    """
    module = backends.cupy().RawModule(code=SOURCE, options=OPTIONS, name_expressions=(name,))
    function = module.get_function(name)
    if dynamic_shared_bytes:
        function.max_dynamic_shared_size_bytes = dynamic_shared_bytes
    return function


def launch(name: str, blocks: int, arguments: Sequence[Any], device: int, shared_bytes: int = 0) -> None:
    """Start ``blocks`` blocks of a kernel on PyTorch's current stream of ``device``; nothing waits for it.

    Arguments are ints (addresses, 64 bits), NumPy scalars (by value, in their own width) or structures of
    ``cuda_structs`` (by value).
    """
    if not blocks:
        return
    cupy, torch = backends.cupy(), backends.torch()
    stream = cupy.cuda.ExternalStream(torch.cuda.current_stream(device).cuda_stream, device)
    by_value = tuple(argument[()] if isinstance(argument, np.ndarray) else argument for argument in arguments)
    with cupy.cuda.Device(device), stream:
        kernel(name, device, shared_bytes)((blocks,), (THREADS,), by_value, shared_mem=shared_bytes)


@cache
def shared_memory(device: int) -> int:
    """Return the bytes of shared memory that a block of ``device`` may ask for, less what the kernels take."""
    attributes = backends.cupy().cuda.Device(device).attributes
    return int(attributes["MaxSharedMemoryPerBlockOptin"]) - 16 * 1024


def chunk_size(bucket_size: int, device: int) -> int | None:
    """Return ``cuda_structs.chunk_size`` for what ``device`` can hold."""
    return cuda_structs.chunk_size(bucket_size, min(shared_memory(device), 4 * cuda_structs.LARGEST_CHUNK))


def key_struct(first: int, second: int) -> Struct:
    """Return the kernels' ``StreamKey``."""
    return np.array((first, second), dtype=cuda_structs.KEY)
