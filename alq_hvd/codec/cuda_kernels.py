"""Compile the CUDA kernels of ``cuda/codec.cu`` through cupy."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from alq_hvd import backends

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
