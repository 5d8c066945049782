"""The device that the CUDA codec runs on: what it asks of cupy and of ``torch.cuda``, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np

from alq_hvd import backends
from alq_hvd.codec.cuda_kernels import THREADS, kernel

Tensor = Any
"""A torch.Tensor; torch is imported in one place only."""


class Device(Protocol):
    """Start kernels on a device, and say what it is. Tests put the CPU in its place (``tests/support``)."""

    @property
    def name(self) -> str:
        """Return what PyTorch calls the device, such as ``cuda:0``."""
        ...

    @property
    def shared_bytes(self) -> int:
        """Return the bytes of shared memory that a block may ask for, less what the kernels take."""
        ...

    @property
    def stream(self) -> int:
        """Return the handle of PyTorch's current stream of this device."""
        ...

    def launch(self, name: str, blocks: int, arguments: Sequence[Any], shared_bytes: int = 0) -> None:
        """Start ``blocks`` blocks of the kernel ``name`` on PyTorch's current stream; nothing waits for it.

        Args:
            name: a kernel of ``cuda/codec.cu`` with its template arguments, such as ``alq::encode<float, 3>``.
            blocks: of ``THREADS`` threads; for none, nothing happens.
            arguments: ints (addresses, 64 bits), NumPy scalars (by value, in their own width) or structures of
                ``cuda_structs`` (by value).
            shared_bytes: dynamic shared memory of a block.
        """
        ...

    def upload(self, data: np.ndarray) -> Tensor:
        """Return torch.uint8[data.nbytes] on the device; nothing waits for the copy."""
        ...

    def synchronize(self) -> None:
        """Wait until everything that was started on the device is done."""
        ...


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """Be one CUDA device; see ``Device``.

    Attributes:
        number: of the device, as PyTorch counts.

    Raises:
        BackendUnavailable: when torch or cupy is missing.
    """

    number: int = 0

    def __post_init__(self) -> None:
        backends.cupy()
        backends.torch()

    @property
    def name(self) -> str:
        """Return ``cuda:number``."""
        return f"cuda:{self.number}"

    @property
    def shared_bytes(self) -> int:
        """Return the bytes of shared memory that a block may ask for, less what the kernels take."""
        return _shared_bytes(self.number)

    @property
    def stream(self) -> int:
        """Return the handle of PyTorch's current stream of this device."""
        return int(backends.torch().cuda.current_stream(self.number).cuda_stream)

    def launch(self, name: str, blocks: int, arguments: Sequence[Any], shared_bytes: int = 0) -> None:
        """Start a kernel through cupy, which compiles it at its first use."""
        if not blocks:
            return
        cupy = backends.cupy()
        by_value = tuple(argument[()] if isinstance(argument, np.ndarray) else argument for argument in arguments)
        with cupy.cuda.Device(self.number), cupy.cuda.ExternalStream(self.stream, self.number):
            kernel(name, self.number, shared_bytes)((blocks,), (THREADS,), by_value, shared_mem=shared_bytes)

    def upload(self, data: np.ndarray) -> Tensor:
        """Return a copy on the device, through pinned memory: from other memory, copying would wait for the stream."""
        torch = backends.torch()
        host = torch.empty(data.nbytes, dtype=torch.uint8, pin_memory=True)
        host.numpy()[:] = np.frombuffer(data.tobytes(), dtype=np.uint8)
        return host.to(self.name, non_blocking=True)

    def synchronize(self) -> None:
        """Wait until everything that was started on the device is done."""
        backends.torch().cuda.synchronize(self.number)


@cache
def _shared_bytes(number: int) -> int:
    attributes = backends.cupy().cuda.Device(number).attributes
    return int(attributes["MaxSharedMemoryPerBlockOptin"]) - 16 * 1024
