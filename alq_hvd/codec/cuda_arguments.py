"""What the GPU codec accepts, and the small tables it keeps on the device between calls."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from alq_hvd.codec import cuda_structs
from alq_hvd.codec.cuda_device import Device, Tensor
from alq_hvd.codec.cuda_names import TYPES
from alq_hvd.codec.device_arrays import Parts
from alq_hvd.errors import ConfigurationError, UnsupportedTensor, WireFormatError
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.record import RecordLayout, Stamp

SLOTS = 64
"""kSlots of ``cuda/decode.cuh``."""
MOST_TABLES = 256


def parts_of(values: Any) -> list[Tensor]:
    """Return the non-empty tensors of a fusion group given as one tensor or several."""
    several = values.tensors if isinstance(values, Parts) else values
    parts: list[Tensor] = list(several) if isinstance(several, (list, tuple)) else [values]
    return [part for part in parts if part.numel()]


def require_parts(parts: Sequence[Tensor], elements: int, device: str) -> None:
    """Raise ``UnsupportedTensor`` unless ``parts`` are contiguous tensors of one float type that hold ``elements``."""
    for part in parts:
        if str(part.device) != device or not part.is_contiguous():
            raise UnsupportedTensor(f"expected contiguous tensors on {device}, got {_described(part)}")
        if str(part.dtype) not in TYPES or part.dtype != parts[0].dtype:
            raise UnsupportedTensor(f"expected one dtype of {', '.join(TYPES)}, got {_described(part)}")
    held = sum(part.numel() for part in parts)
    if held != elements:
        raise UnsupportedTensor(f"expected {elements} elements in all, got {held} in {len(parts)} tensors")


def require_residual(residual: Tensor, elements: int, device: str) -> None:
    """Raise ``UnsupportedTensor`` unless ``residual`` is a contiguous tensor of ``elements`` float32."""
    require_parts((residual,), elements, device)
    if str(residual.dtype) != "torch.float32":
        raise UnsupportedTensor(f"residual: expected float32, got {_described(residual)}")


def require_records(records: Sequence[Tensor], layout: RecordLayout, stamps: Sequence[Stamp], device: str) -> None:
    """Raise ``AlqError`` unless every record has the bytes of ``layout`` and a stamp of one table and step."""
    if len(records) != len(stamps):
        raise ConfigurationError(f"expected one stamp a record, got {len(stamps)} stamps and {len(records)} records")
    if len({(stamp.levels_digest, stamp.step) for stamp in stamps}) > 1:
        raise ConfigurationError(f"expected stamps of one level table and one step, got {list(stamps)}")
    for record, stamp in zip(records, stamps, strict=True):
        right = str(record.dtype) == "torch.uint8" and record.is_contiguous() and str(record.device) == device
        if not right or record.numel() != layout.record_bytes or record.data_ptr() % 4:
            raise WireFormatError(
                f"record from rank {stamp.sender} at step {stamp.step}: expected contiguous "
                f"torch.uint8[{layout.record_bytes}] on {device}, aligned to 4 bytes, got {_described(record)}"
            )


def _described(tensor: Tensor) -> str:
    return (
        f"{tensor.dtype}{list(tensor.shape)} on {tensor.device}{'' if tensor.is_contiguous() else ', not contiguous'}"
    )


class Memory:
    """Keep tables of levels and addresses on the device, so that a warm call copies nothing.

    Args:
        device: where the codec's tensors are.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kept: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()

    def tables(self, levels: Levels, bits: int) -> int:
        """Return the address of the kernels' ``Tables``."""
        key = ("levels", levels.values.tobytes(), bits)
        return int(self._keep(key, lambda: cuda_structs.tables(levels, bits)).data_ptr())

    def addresses(self, parts: Sequence[Tensor]) -> tuple[int, int]:
        """Return the addresses of uint64[count] addresses and uint32[count] ends of ``parts``."""
        where = tuple((int(part.data_ptr()), int(part.numel())) for part in parts)
        data = np.array([address for address, _ in where], dtype=np.uint64)
        ends = np.cumsum([length for _, length in where]).astype(np.uint32)
        return self._pair(("parts", where), data, ends)

    def senders(self, records: Sequence[Tensor], stamps: Sequence[Stamp]) -> tuple[int, int]:
        """Return the addresses of uint64[count] addresses and uint32[count] senders of ``records``."""
        where = tuple((int(record.data_ptr()), stamp.sender) for record, stamp in zip(records, stamps, strict=True))
        data = np.array([address for address, _ in where], dtype=np.uint64)
        senders = np.array([sender for _, sender in where], dtype=np.uint32)
        return self._pair(("records", where), data, senders)

    def checks(self, count: int) -> int:
        """Return the address of uint32[count, SLOTS], which the kernels leave zero."""
        zeros = np.zeros(count * SLOTS, dtype=np.uint32)
        return int(self._keep(("checks", count), lambda: zeros).data_ptr())

    def _pair(self, key: tuple[Any, ...], data: np.ndarray, words: np.ndarray) -> tuple[int, int]:
        both = self._keep(key, lambda: np.concatenate([data.view(np.uint32), words]))
        return int(both.data_ptr()), int(both.data_ptr()) + 8 * len(data)

    def _keep(self, key: tuple[Any, ...], make: Callable[[], np.ndarray]) -> Tensor:
        """Return the device's copy of an array, made on first use; the least recently used of many is dropped."""
        if key not in self._kept:
            self._kept[key] = self._device.upload(make())
            while len(self._kept) > MOST_TABLES:
                dropped = self._kept.pop(next(each for each in self._kept if each[0] in _REPLACEABLE))
                self._device.keep(dropped)  # of whichever stream: the current one comes after all that read it
        self._kept.move_to_end(key)
        return self._kept[key]


_REPLACEABLE = ("parts", "records", "levels")
