"""What the GPU codec accepts, and the small tables it keeps on the device between calls."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from operator import attrgetter, methodcaller
from typing import Any, NamedTuple

import numpy as np

from alq_hvd.codec import cuda_structs
from alq_hvd.codec.cuda_device import Device, Tensor
from alq_hvd.codec.cuda_names import TYPES
from alq_hvd.codec.device_arrays import Parts
from alq_hvd.codec.strata import PERIOD
from alq_hvd.errors import ConfigurationError, UnsupportedTensor, WireFormatError
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.levels_by_width import LevelsByWidth
from alq_hvd.quantiser.record import RecordLayout, Stamp

SLOTS = 64
"""kSlots of ``cuda/decode.cuh``."""
MOST_TABLES = 256
_numel, _is_contiguous, _data_ptr = methodcaller("numel"), methodcaller("is_contiguous"), methodcaller("data_ptr")
_dtype = attrgetter("dtype")


class Placed(NamedTuple):
    """The non-empty tensors of a fusion group as kernels find them; each was asked once for what is here.

    Attributes:
        parts: the tensors.
        addresses: of them.
        lengths: of them.
        kind: their element type, as kernels call it.
        key: addresses and lengths as bytes, whose hash Python computes once.
    """

    parts: Sequence[Tensor]
    addresses: tuple[int, ...]
    lengths: tuple[int, ...]
    kind: str
    key: bytes


def placed(values: Any, elements: int | None, device: Device, memory: Memory) -> Placed:
    """Return where the tensors of a fusion group lie, given as one tensor or several.

    ``Parts`` promise to be contiguous, of one dtype and device: they are looked through where ``memory`` does not know
    them, not at every call.

    Raises:
        UnsupportedTensor: unless they are contiguous, on ``device``, of one float type, and hold ``elements``.
    """
    promised = isinstance(values, Parts)
    several = values.tensors if promised else values
    parts: Sequence[Tensor] = several if isinstance(several, (list, tuple)) else (several,)
    lengths: tuple[int, ...] = values.lengths if promised else tuple(map(_numel, parts))
    if not all(lengths):
        parts = [part for part, length in zip(parts, lengths, strict=True) if length]
        lengths = tuple(filter(None, lengths))
    if not parts:
        require_parts(parts, 0 if elements is None else elements, device.name)
        return Placed((), (), (), "float", b"")
    addresses, kind = tuple(map(_data_ptr, parts)), TYPES.get(str(parts[0].dtype), "")
    found = Placed(parts, addresses, lengths, kind, array("Q", addresses + lengths).tobytes())
    alike = (promised and memory.knows(found)) or (
        len(set(map(_dtype, parts))) == 1 and device.holds(parts) and all(map(_is_contiguous, parts))
    )
    if not alike or not found.kind or (elements is not None and sum(lengths) != elements):
        require_parts(parts, elements, device.name)
    return found


def require_parts(parts: Sequence[Tensor], elements: int | None, device: str) -> None:
    """Raise ``UnsupportedTensor`` unless ``parts`` are contiguous tensors of one float type that hold ``elements``."""
    for part in parts:
        if str(part.device) != device or not part.is_contiguous():
            raise UnsupportedTensor(f"expected contiguous tensors on {device}, got {_described(part)}")
        if str(part.dtype) not in TYPES or part.dtype != parts[0].dtype:
            raise UnsupportedTensor(f"expected one dtype of {', '.join(TYPES)}, got {_described(part)}")
    held = sum(part.numel() for part in parts)
    if elements is not None and held != elements:
        raise UnsupportedTensor(f"expected {elements} elements in all, got {held} in {len(parts)} tensors")


def require_residual(residual: Tensor, elements: int, device: str) -> None:
    """Raise ``UnsupportedTensor`` unless ``residual`` is a contiguous tensor of ``elements`` float32."""
    require_parts((residual,), elements, device)
    if str(residual.dtype) != "torch.float32":
        raise UnsupportedTensor(f"residual: expected float32, got {_described(residual)}")


def require_records(
    records: Sequence[Tensor], layout: RecordLayout, stamps: Sequence[Stamp], device: Device
) -> tuple[int, ...]:
    """Return the addresses of records; raise ``AlqError`` unless they have the bytes of ``layout`` and fit ``stamps``.

    All stamps must be of one table and step.
    """
    if len(records) != len(stamps):
        raise ConfigurationError(f"expected one stamp a record, got {len(stamps)} stamps and {len(records)} records")
    if len({(stamp.levels_digest, stamp.step) for stamp in stamps}) > 1:
        raise ConfigurationError(f"expected stamps of one level table and one step, got {list(stamps)}")
    addresses = tuple(map(_data_ptr, records))
    right = set(map(_numel, records)) <= {layout.record_bytes} and all(map(_is_contiguous, records))
    right = right and device.holds(records) and not any(address % 4 for address in addresses)
    if not right or {str(dtype) for dtype in set(map(_dtype, records))} - {"torch.uint8"}:
        for record, stamp in zip(records, stamps, strict=True):
            _require_record(record, layout, stamp, device.name)
    return addresses


def _require_record(record: Tensor, layout: RecordLayout, stamp: Stamp, device: str) -> None:
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

    def tables(self, levels: Levels, bits: int, strata: int = 1) -> int:
        """Return the address of the kernels' ``Tables``, for an encoder of so many strata."""
        key = ("levels", levels.values.tobytes(), bits, strata)
        return int(self._keep(key, lambda: cuda_structs.tables(levels, bits, strata)).data_ptr())

    def tables_by_width(self, levels: LevelsByWidth, config: QuantiserConfig, strata: int) -> int:
        """Return the address of the kernels' ``TablesByWidth``."""
        key = ("levels", levels.packed.tobytes(), config, strata)
        return int(self._keep(key, lambda: cuda_structs.tables_by_width(levels, config, strata)).data_ptr())

    def knows(self, where: Placed) -> bool:
        """Return whether ``addresses`` has been called for these places and this type."""
        return ("parts", where.kind, where.key) in self._kept

    def addresses(self, where: Placed) -> tuple[int, int]:
        """Return the addresses of uint64[count] addresses and uint32[count] ends of tensors."""
        return self._pair(("parts", where.kind, where.key), where.addresses, lambda: np.cumsum(where.lengths))

    def address(self, tensor: Tensor) -> tuple[int, int]:
        """Return the same for one tensor."""
        place = (int(tensor.data_ptr()), int(tensor.numel()))
        return self.addresses(Placed((tensor,), place[:1], place[1:], "float", array("Q", place).tobytes()))

    def senders(self, addresses: tuple[int, ...], stamps: Sequence[Stamp]) -> tuple[int, int]:
        """Return the addresses of uint64[count] ``addresses`` of records and uint32[count] senders."""
        senders = tuple([stamp.sender for stamp in stamps])
        return self._pair(("records", addresses, senders), addresses, lambda: senders)

    def checks(self, count: int) -> int:
        """Return the address of uint32[count, SLOTS], which the kernels leave zero."""
        zeros = np.zeros(count * SLOTS, dtype=np.uint32)
        return int(self._keep(("checks", count), lambda: zeros).data_ptr())

    def key_counts(self) -> int:
        """Return the address of uint32[KEYS], which the kernels leave zero."""
        return int(self._keep(("keys",), lambda: np.zeros(cuda_structs.KEYS, dtype=np.uint32)).data_ptr())

    def unshifted(self) -> int:
        """Return the address of uint32[PERIOD], into which each record's strata go before they are shifted."""
        return int(self._keep(("unshifted",), lambda: np.zeros(PERIOD, dtype=np.uint32)).data_ptr())

    def _pair(self, key: tuple[Any, ...], data: Sequence[int], words: Callable[[], Any]) -> tuple[int, int]:
        def both() -> np.ndarray:
            return np.concatenate([np.array(data, dtype=np.uint64).view(np.uint32), np.array(words(), dtype=np.uint32)])

        start = int(self._keep(key, both).data_ptr())
        return start, start + 8 * len(data)

    def _keep(self, key: tuple[Any, ...], make: Callable[[], np.ndarray]) -> Tensor:
        """Return the device's copy of an array, made on first use; the least recently used of many is dropped."""
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = self._device.upload(make())
            while len(self._kept) > MOST_TABLES:
                dropped = self._kept.pop(next(each for each in self._kept if each[0] in _REPLACEABLE))
                self._device.keep(dropped)  # of whichever stream: the current one comes after all that read it
        self._kept.move_to_end(key)
        return kept


_REPLACEABLE = ("parts", "records", "levels")
