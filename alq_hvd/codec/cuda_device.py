"""The device that the CUDA codec runs on: what it asks of cupy and of ``torch.cuda``, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from operator import methodcaller
from typing import Any, Protocol

import numpy as np

from alq_hvd import backends
from alq_hvd.codec.arrays import Record
from alq_hvd.codec.cuda_kernels import THREADS, kernel, require_capability


class Tensor(Protocol):
    """Be a torch.Tensor, told apart from arrays of NumPy, and nothing more: torch is imported in one place only."""

    def __len__(self) -> int:
        """Return the number of elements."""
        ...

    def __getitem__(self, run: Any, /) -> Any:
        """Return some of them."""
        ...

    def data_ptr(self) -> int:
        """Return the address, perhaps of a device."""
        ...

    def __getattr__(self, name: str) -> Any:
        """Return what else a tensor has."""
        ...


_get_device = methodcaller("get_device")


class Download(Protocol):
    """Represent bytes on their way to the host."""

    def done(self) -> bool:
        """Return whether ``wait`` would return at once."""
        ...

    def wait(self) -> Record:
        """Return the bytes, uint8[n]."""
        ...


class Device(Protocol):
    """Start kernels and copies on a device. Tests put the CPU in its place (``tests/support``).

    Everything happens on PyTorch's current stream of the device, and nothing waits but ``synchronize``.
    """

    @property
    def name(self) -> str:
        """Return what PyTorch calls the device, such as ``cuda:0``."""
        ...

    @property
    def shared_bytes(self) -> int:
        """Return the bytes of shared memory that a block may ask for, less what the kernels take."""
        ...

    @property
    def stream(self) -> Any:
        """Return PyTorch's current stream of this device."""
        ...

    def follow(self, stream: Any) -> None:
        """Let the current stream wait for everything that ``stream`` has been given so far."""
        ...

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Return whether all of ``tensors`` are on this device; asked at each call of a codec."""
        ...

    def launch(self, name: str, blocks: int, arguments: Sequence[Any], shared_bytes: int = 0) -> None:
        """Start ``blocks`` blocks of the kernel ``name``.

        Args:
            name: a kernel of ``cuda/codec.cu`` with its template arguments, such as ``alq::encode<float, 3>``.
            blocks: of ``THREADS`` threads; for none, nothing happens.
            arguments: ints (addresses, 64 bits), NumPy scalars (by value, in their own width) or structures of
                ``cuda_structs`` (by value).
            shared_bytes: dynamic shared memory of a block.
        """
        ...

    def upload(self, *arrays: np.ndarray) -> Tensor:
        """Return the bytes of ``arrays``, one after another, as a torch.uint8 tensor on the device."""
        ...

    def download(self, tensors: Sequence[Tensor]) -> Download:
        """Start to copy torch.uint8 tensors to the host, one after another."""
        ...

    def keep(self, tensor: Tensor) -> None:
        """Let the memory of ``tensor``, perhaps of another stream, not be used again before the current one is done."""
        ...

    def synchronize(self) -> None:
        """Wait until everything that was started on the device is done."""
        ...


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """One CUDA device; see ``Device``.

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
    def stream(self) -> Any:
        """Return PyTorch's current stream of this device."""
        return backends.torch().cuda.current_stream(self.number)

    def follow(self, stream: Any) -> None:
        """Let the current stream wait for what ``stream`` has been given so far."""
        self.stream.wait_stream(stream)

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Compare numbers: devices take longer."""
        return {self.number} >= set(map(_get_device, tensors)) and all(tensor.is_cuda for tensor in tensors[:1])

    def launch(self, name: str, blocks: int, arguments: Sequence[Any], shared_bytes: int = 0) -> None:
        """Start a kernel through cupy, which compiles it at its first use."""
        if not blocks:
            return
        passed = tuple([_without_fields(each) if isinstance(each, np.ndarray) else each for each in arguments])
        with backends.cupy().cuda.Device(self.number):
            kernel(name, self.number)(
                *((blocks,), (THREADS,), passed, shared_bytes, _StreamHandle(self.stream.cuda_stream))
            )

    def upload(self, *arrays: np.ndarray) -> Tensor:
        """Return a copy on the device, through pinned memory: from other memory, copying would wait for the stream."""
        torch = backends.torch()
        host = torch.empty(sum(array.nbytes for array in arrays), dtype=torch.uint8, device="cpu", pin_memory=True)
        np.concatenate([np.ascontiguousarray(array).view(np.uint8).reshape(-1) for array in arrays], out=host.numpy())
        return host.to(self.name, non_blocking=True)

    def download(self, tensors: Sequence[Tensor]) -> Download:
        """Start to copy ``tensors`` to pinned memory."""
        torch = backends.torch()
        host = torch.empty(sum(tensor.numel() for tensor in tensors), dtype=torch.uint8, device="cpu", pin_memory=True)
        for tensor, place in zip(tensors, host.split([tensor.numel() for tensor in tensors]), strict=True):
            place.copy_(tensor, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(self.stream)
        return _PinnedCopy(host, copied)

    def keep(self, tensor: Tensor) -> None:
        """Tell PyTorch's allocator that the current stream uses ``tensor``."""
        tensor.record_stream(self.stream)

    def synchronize(self) -> None:
        """Wait until everything that was started on the device is done."""
        backends.torch().cuda.synchronize(self.number)


def _without_fields(made: np.ndarray) -> np.ndarray:
    """Return a structure as an array of one element that has no fields.

    cupy passes NumPy arrays of one element by value, and asks each for its description: that of fields takes ten
    microseconds.
    """
    return made.view(_opaque(made.itemsize))


@cache
def _opaque(size: int) -> np.dtype[np.void]:
    return np.dtype((np.void, size))


@dataclass(frozen=True, slots=True)
class _StreamHandle:
    """Show a stream of PyTorch as what cupy, of any version, asks a stream for: its address."""

    ptr: int


@dataclass(frozen=True, slots=True)
class _PinnedCopy:
    """Wait for a copy to pinned memory; see ``Download``."""

    host: Tensor
    copied: Any

    def done(self) -> bool:
        return bool(self.copied.query())

    def wait(self) -> Record:
        self.copied.synchronize()
        array: Record = self.host.numpy()
        return array


class CudaDevices:
    """Find the device that a tensor lives on."""

    def require(self) -> None:
        """Raise ``BackendUnavailable`` unless torch and cupy are installed."""
        backends.cupy()
        backends.torch()

    def of(self, tensor: Tensor) -> Device | None:
        """Return the CUDA device of ``tensor``; ``None`` for one that lives elsewhere.

        Raises:
            BackendUnavailable: cupy is missing, or the device is too old for the kernels.
        """
        if tensor.device.type != "cuda":
            return None
        device = CudaDevice(tensor.device.index)
        require_capability(_capability(tensor.device.index), device.name)
        return device


@cache
def _capability(number: int) -> int:
    major, minor = backends.torch().cuda.get_device_capability(number)
    return 10 * int(major) + int(minor)


@cache
def _shared_bytes(number: int) -> int:
    attributes = backends.cupy().cuda.Device(number).attributes
    return int(attributes["MaxSharedMemoryPerBlockOptin"]) - 16 * 1024
