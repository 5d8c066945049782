"""What exchanges do with values and records besides coding them: make, join, add, and bring them to the wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from alq_hvd import backends
from alq_hvd.accumulation.types import FP32, FloatType

FloatArray = npt.NDArray[np.float32]
Record = npt.NDArray[np.uint8]


class Values(Protocol):
    """The numbers of a fusion group: float32[elements] of NumPy on the host, a tensor or ``Parts`` on a device."""

    def __len__(self) -> int:
        """Return the number of elements."""
        ...

    def __getitem__(self, run: slice, /) -> Any:
        """Return some of them, which share their memory."""
        ...


class Bytes(Protocol):
    """uint8[n] where the values are, records above all: of NumPy on the host, of torch on a device."""

    def __len__(self) -> int:
        """Return n."""
        ...

    def __getitem__(self, run: slice, /) -> Any:
        """Return some of them, which share their memory."""
        ...


# V and B are the values and bytes of one kind of memory: ``Codec[FloatArray, Record]`` is of the host, and
# ``Codec[DeviceValues, Tensor]`` of a device. ``Codec`` alone leaves open which: the engine has groups in several.
if TYPE_CHECKING:  # before Python 3.13 only type checkers know of defaults
    from typing_extensions import TypeVar

    V = TypeVar("V", bound=Values, default=Any)
    B = TypeVar("B", bound=Bytes, default=Any)
else:
    from typing import TypeVar

    V, B = TypeVar("V"), TypeVar("B")


class Error(NamedTuple):
    """Say what coding has done to values.

    Attributes:
        squared: |decoded - values|^2, added in float64.
        norm: |values|^2, likewise.
        zeros: how many values were exactly zero and are not any more.
    """

    squared: float
    norm: float
    zeros: int


class Departure(Protocol):
    """Represent records that are being copied to the host."""

    def done(self) -> bool:
        """Return whether ``wait`` would return at once."""
        ...

    def wait(self) -> list[Record]:
        """Return the records in host memory.

        Raises:
            WireFormatError: what they were made of was damaged.
        """
        ...


class Staging(Protocol[B]):
    """Bring records from a device to the host and back."""

    def depart(self, records: Sequence[B]) -> Departure:
        """Start to copy ``records`` to the host."""
        ...

    def arrive(self, records: Sequence[Record]) -> list[B]:
        """Return copies of ``records`` on the device; nothing waits for them."""
        ...

    def guarded(self, records: Sequence[B]) -> list[B]:
        """Return ``records`` to be sent as they lie, or, made of damaged ones, bytes that no reader accepts as whole.

        Those have all bits set: a header that is none, and NaN as a float32. Nothing waits to find out which.
        """
        ...


class Arrays(Protocol[V, B]):
    """Make and combine the arrays of one kind of memory."""

    @property
    def staging(self) -> Staging[B] | None:
        """Return the way to the host; ``None`` where the arrays are there already."""
        ...

    def copied(self, values: FloatArray) -> V:
        """Return a copy of ``values`` in this memory."""
        ...

    def zeros(self, elements: int) -> V:
        """Return float32[elements], all zero."""
        ...

    def on_host(self, values: V) -> FloatArray:
        """Return a copy of ``values``, float32, on the host; this waits for a device."""
        ...

    def plus(self, values: V, residual: V) -> V:
        """Return their sum in new memory, float32, as codecs form it."""
        ...

    def hold_back(self, values: V, residual: V) -> V | None:
        """Take out of ``residual`` what belongs to values that are exactly zero, and return it, zero elsewhere.

        ``None`` stands for nothing.
        """
        ...

    def overwrite(self, out: V, values: V) -> None:
        """Copy float32 ``values`` of this memory over ``out``, as long."""
        ...

    def multiply(self, values: V, factor: float) -> None:
        """Multiply float32 ``values`` in place."""
        ...

    def is_finite(self, values: V, stride: int) -> bool:
        """Return whether every ``stride``-th value is finite, the first one among them; this waits for a device."""
        ...

    def room_for_sum(self, values: V) -> V:
        """Return float32[len(values)] to be overwritten: ``values``, which are no longer needed, where they fit."""
        ...

    def padded(self, record: B, length: int) -> B:
        """Return ``record`` with zeros behind it, uint8[length]."""
        ...

    def as_bytes(self, values: V, kind: FloatType = FP32) -> B:
        """Return the bytes of ``values`` rounded to ``kind``: uint8[kind.bytes * len(values)], perhaps their own."""
        ...

    def add_up(self, records: Sequence[B], out: V, kind: FloatType = FP32) -> None:
        """Write to ``out``, float32, the sum of the numbers whose bytes ``records`` are, in the order given.

        Every partial sum is rounded to ``kind``, the type of the numbers: to the nearest, ties to even.
        """
        ...

    def scaled(self, record: B, scale: float, out: V) -> None:
        """Write to ``out`` ``scale`` times the float32 numbers whose bytes ``record`` is."""
        ...

    def error(self, decoded: V, values: V) -> Error | None:
        """Return what the difference is; ``None`` unless ``decoded`` is finite."""
        ...


@dataclass(frozen=True, slots=True)
class HostArrays:
    """NumPy's arrays in host memory; see ``Arrays``."""

    staging: None = None

    def copied(self, values: FloatArray) -> FloatArray:
        """Copy them."""
        return values.copy()

    def zeros(self, elements: int) -> FloatArray:
        """Make them."""
        return np.zeros(elements, dtype=np.float32)

    def on_host(self, values: FloatArray) -> FloatArray:
        """Copy them."""
        return values.copy()

    def plus(self, values: FloatArray, residual: FloatArray) -> FloatArray:
        """Add in float32."""
        return values + residual

    def hold_back(self, values: FloatArray, residual: FloatArray) -> FloatArray | None:
        """Compare once; where no value is zero that is all."""
        zero = values == 0
        if not zero.any():
            return None
        held = np.where(zero, residual, np.float32(0))
        residual -= held
        return held

    def overwrite(self, out: FloatArray, values: FloatArray) -> None:
        """Copy them."""
        out[:] = values

    def multiply(self, values: FloatArray, factor: float) -> None:
        """Multiply in float32."""
        values *= np.float32(factor)

    def is_finite(self, values: FloatArray, stride: int) -> bool:
        """Look at them."""
        return bool(np.isfinite(values[::stride]).all())

    def room_for_sum(self, values: FloatArray) -> FloatArray:
        """Return ``values``."""
        return values

    def padded(self, record: Record, length: int) -> Record:
        """Return ``record`` itself when it has the length."""
        if len(record) == length:
            return record
        longer = np.zeros(length, dtype=np.uint8)
        longer[: len(record)] = record
        return longer

    def as_bytes(self, values: FloatArray, kind: FloatType = FP32) -> Record:
        """Return a view of ``values``, or a copy in 16 bits, for which NumPy has no type (bf16) or no fast one."""
        flat = np.ascontiguousarray(values)
        if kind is FP32:
            return flat.view(np.uint8)
        torch = backends.torch()
        narrow: Record = torch.from_numpy(flat).to(kind.torch).view(torch.int16).numpy().view(np.uint8)
        return narrow

    def add_up(self, records: Sequence[Record], out: FloatArray, kind: FloatType = FP32) -> None:
        """Add in ``kind``."""
        out[:] = 0
        if kind is FP32:
            for record in records:
                out += record.view(np.float32)
            return
        torch = backends.torch()
        total = torch.zeros(len(out), dtype=kind.torch)
        for record in records:
            own = record if record.flags.writeable else record.copy()  # torch warns of memory it could write to
            total += torch.from_numpy(own.view(np.int16)).view(kind.torch)
        torch.from_numpy(out).copy_(total)

    def scaled(self, record: Record, scale: float, out: FloatArray) -> None:
        """Multiply in float32."""
        np.multiply(record.view(np.float32), np.float32(scale), out=out)

    def error(self, decoded: FloatArray, values: FloatArray) -> Error | None:
        """Add in float64."""
        if not np.isfinite(decoded).all():
            return None
        wide = values.astype(np.float64)
        zeros = int(np.count_nonzero(decoded[values == 0]))
        return Error(float(np.square(decoded - wide).sum()), float(np.square(wide).sum()), zeros)
