"""What the CUDA codec uses of cupy and of ``torch.cuda``, on machines without a GPU: with cupy's own traps.

As read in cupy 13 and 14: all ``RawModule`` of one path are one module, and its functions, with their attributes, are
shared by whoever asks for them; a kernel whose dynamic shared memory exceeds its own limit is not started; getCUBIN
drops a byte (``nvrtc.py``). ``Stream.from_external`` does not exist, as in cupy 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from tests.support.emulated_device import run_kernel
from tests.support.nvrtc import Nvrtc

MOST_SHARED = 227 * 1024
"""Bytes of shared memory that a block may ask for (H100)."""
STATIC_SHARED = 4096
UNASKED_SHARED = 48 * 1024


class CUDADriverError(RuntimeError):
    """What cupy raises."""


@dataclass
class Driver:
    """Keep what CUDA keeps: the functions that were loaded, by path and symbol, and what was launched."""

    limits: dict[tuple[str, str], int] = field(default_factory=dict)
    launched: list[tuple[str, int, int]] = field(default_factory=list)


class Function:
    """Be one kernel on a device: call it with what ``cupy.cuda.function.Function`` takes."""

    def __init__(self, driver: Driver, path: str, symbol: str) -> None:
        self.driver, self.key = driver, (path, symbol)

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], shared_mem: int, stream: Any
    ) -> None:
        """Run the kernel on the CPU."""
        assert isinstance(grid, tuple) and isinstance(block, tuple) and block == (256,)
        assert isinstance(stream.ptr, int)
        assert all(each.dtype.names is None for each in args if isinstance(each, np.ndarray)), "fields cost 10 us"
        if shared_mem > self.driver.limits[self.key]:
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self.driver.launched.append((self.key[1], shared_mem, stream.ptr))
        run_kernel(name_of(self.key[1]), grid[0], args, shared_mem)


class RawKernel:
    """Offer the attributes of a function, which belong to all who use it."""

    def __init__(self, driver: Driver, path: str, symbol: str) -> None:
        self.kernel = Function(driver, path, symbol)
        self.shared_size_bytes = STATIC_SHARED
        driver.limits.setdefault(self.kernel.key, UNASKED_SHARED)

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self.kernel.driver.limits[self.kernel.key]

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, limit: int) -> None:
        if limit + STATIC_SHARED > MOST_SHARED:
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self.kernel.driver.limits[self.kernel.key] = limit


def cupy_of(driver: Driver, nvrtc: Nvrtc, capability: str = "90") -> Any:
    """Return the module cupy, as far as it is used."""

    class RawModule:
        def __init__(self, *, path: str) -> None:
            self.path = path

        def get_function(self, symbol: str) -> RawKernel:
            code = Path(self.path).read_bytes()
            if code[:4] != b"\x7fELF" or symbol.encode() not in code:
                raise CUDADriverError("CUDA_ERROR_INVALID_IMAGE: device kernel image is invalid")
            return RawKernel(driver, self.path, symbol)

    class Device:
        compute_capability = capability

        def __init__(self, number: int) -> None:
            assert number == 0
            self.attributes = {"MaxSharedMemoryPerBlockOptin": MOST_SHARED}

        def __enter__(self) -> None:
            """The current device."""

        def __exit__(self, *exception: object) -> None:
            """Be it no longer."""

    return SimpleNamespace(RawModule=RawModule, cuda=SimpleNamespace(nvrtc=nvrtc, Device=Device))


@dataclass(frozen=True)
class Stream:
    """A stream of PyTorch."""

    cuda_stream: int = 0

    def wait_stream(self, other: Stream) -> None:
        """Do nothing: kernels have ended when they return."""


def torch_of(stream: Stream) -> Any:
    """Return torch, whose only device is the CPU under the name of a CUDA device's functions."""
    cuda = SimpleNamespace(current_stream=lambda number: stream, get_device_capability=lambda number: (9, 0))
    return SimpleNamespace(**{**vars(torch), "cuda": cuda})


def name_of(symbol: str) -> str:
    """Return the name, with template arguments, of a kernel's mangled name: ``alq::encode<float, 3>``."""
    types = {"f": "float", "NS_4HalfE": "alq::Half", "NS_5BrainE": "alq::Brain"}
    rest = symbol.removeprefix("_ZN3alq")
    length = int("".join(character for character in rest[:2] if character.isdigit()))
    rest = rest[len(str(length)) :]
    name, rest = rest[:length], rest[length:]
    if not rest.startswith("I"):
        return f"alq::{name}"
    arguments, rest = [], rest[1:]
    while not rest.startswith("E"):
        kind = next((code for code in types if rest.startswith(code)), None)
        if kind is not None:
            arguments.append(types[kind])
            rest = rest.removeprefix(kind)
            continue
        value, rest = rest[2 : rest.index("E")], rest[rest.index("E") + 1 :]
        arguments.append(value)
    return f"alq::{name}<{', '.join(arguments)}>"
