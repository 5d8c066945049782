"""Values and records on a device: the tensors of a fusion group as they lie, and the way of records to the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alq_hvd import backends
from alq_hvd.accumulation.types import FP32, FloatType
from alq_hvd.codec.arrays import Error, FloatArray, Record
from alq_hvd.codec.cuda_damage import Damage
from alq_hvd.codec.cuda_device import Device, Download, Tensor
from alq_hvd.codec.cuda_stream import StreamOrder


@dataclass(frozen=True, slots=True)
class Parts:
    """The values of a fusion group without copying them together: flat tensors, one after another.

    Attributes:
        tensors: contiguous, one-dimensional, of one dtype and device.
        lengths: of the tensors; who makes parts again and again knows them, and asks 161 tensors once.
    """

    tensors: tuple[Tensor, ...]
    lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.lengths:
            object.__setattr__(self, "lengths", tuple([int(tensor.numel()) for tensor in self.tensors]))

    def __len__(self) -> int:
        """Return the number of elements in all."""
        return sum(self.lengths)

    def __getitem__(self, run: slice) -> Parts:
        """Return the elements ``run.start`` up to, not including, ``run.stop``, which share their memory."""
        start, stop, _ = run.indices(len(self))
        kept, before = [], 0
        for tensor, length in zip(self.tensors, self.lengths, strict=True):
            first, last = max(start - before, 0), min(stop - before, length)
            if first < last:
                kept.append(tensor[first:last])
            before += length
        return Parts(tuple(kept))


DeviceValues = Parts | Tensor
"""Values on a device: tensors as they lie, or float32 in one run of memory."""


@dataclass(frozen=True, slots=True)
class DeviceArrays:
    """Tensors on a device; see ``Arrays`` and ``Staging``. What is started keeps the order of ``StreamOrder``.

    Attributes:
        device: where the tensors are.
        order: of everything that the codec of these arrays starts.
        damage: what that codec found; records made of damaged ones do not leave.
    """

    device: Device
    order: StreamOrder
    damage: Damage

    @property
    def staging(self) -> DeviceArrays:
        """Return these arrays themselves."""
        return self

    def copied(self, values: FloatArray) -> Tensor:
        """Copy them to the device."""
        self.order.enter()
        return self.device.upload(values).view(backends.torch().float32)

    def zeros(self, elements: int) -> Tensor:
        """Make them on the device."""
        self.order.enter()
        return backends.torch().zeros(elements, dtype=backends.torch().float32, device=self.device.name)

    def on_host(self, values: DeviceValues) -> FloatArray:
        """Copy them to the host."""
        self.order.enter(*_tensors(values))
        one = self._flat(values) if isinstance(values, Parts) else values
        array: FloatArray = one.to("cpu", copy=True).numpy()
        return array

    def plus(self, values: DeviceValues, residual: DeviceValues) -> Tensor:
        """Widen to float32, and add."""
        self.order.enter(*_tensors(values), *_tensors(residual))
        return self._flat(values) + self._flat(residual)

    def hold_back(self, values: DeviceValues, residual: DeviceValues) -> Tensor:
        """Hold back whatever there is: nothing waits to find out whether that is nothing."""
        self.order.enter()
        owed = self._flat(residual)
        held = backends.torch().where(self._flat(values) == 0, owed, 0)
        _spread(owed - held, residual)
        return held

    def overwrite(self, out: DeviceValues, values: DeviceValues) -> None:
        """Copy them on the device."""
        self.order.enter()
        _spread(self._flat(values), out)

    def multiply(self, values: DeviceValues, factor: float) -> None:
        """Multiply on the device."""
        self.order.enter()
        for tensor in _tensors(values):
            tensor.mul_(factor)

    def is_finite(self, values: DeviceValues, stride: int) -> bool:
        """Look at them."""
        self.order.enter()
        return bool(self._flat(values)[::stride].isfinite().all())

    def room_for_sum(self, values: DeviceValues) -> Tensor:
        """Return new memory: values may be 16-bit floats, in several places."""
        torch = backends.torch()
        return torch.empty(len(values), dtype=torch.float32, device=self.device.name)

    def padded(self, record: Tensor, length: int) -> Tensor:
        """Return ``record`` itself when it has the length."""
        self.order.enter(record)
        missing = length - len(record)
        return backends.torch().nn.functional.pad(record, (0, missing)) if missing else record

    def as_bytes(self, values: DeviceValues, kind: FloatType = FP32) -> Tensor:
        """Return the bytes of the values in ``kind``."""
        self.order.enter(*_tensors(values))
        return self._flat(values, kind).view(backends.torch().uint8)

    def add_up(self, records: Sequence[Tensor], out: DeviceValues, kind: FloatType = FP32) -> None:
        """Add in ``kind``."""
        self.order.enter(*_tensors(out))
        total = backends.torch().zeros(len(out), dtype=kind.torch, device=self.device.name)
        for record in records:
            self.device.keep(record)
            total.add_(record.view(kind.torch))
        _spread(total, out)

    def scaled(self, record: Tensor, scale: float, out: DeviceValues) -> None:
        """Multiply in float32, and round to the dtype of ``out``."""
        self.order.enter(*_tensors(out))
        self.device.keep(record)
        _spread(record.view(backends.torch().float32) * float(np.float32(scale)), out)

    def error(self, decoded: DeviceValues, values: DeviceValues) -> Error | None:
        """Add in float64; this waits for the device."""
        self.order.enter(*_tensors(decoded), *_tensors(values))
        coded = self._flat(decoded)
        if not bool(coded.isfinite().all()):
            return None
        wide = self._flat(values).double()
        zeros = int((coded[wide == 0] != 0).sum())
        return Error(float((coded.double() - wide).square().sum()), float(wide.square().sum()), zeros)

    def depart(self, records: Sequence[Tensor]) -> _Leaving:
        """Start to copy ``records`` to the host, and behind them the word in which decoders note damage."""
        self.order.enter(*records)
        download = self.device.download([*records, self.damage.word()])
        return _Leaving(download, [len(record) for record in records], self.damage)

    def arrive(self, records: Sequence[Record]) -> list[Tensor]:
        """Return copies on the device, in one run of memory."""
        self.order.enter()
        joined: list[Tensor] = list(self.device.upload(*records).split([len(record) for record in records]))
        return joined

    def guarded(self, records: Sequence[Tensor]) -> list[Tensor]:
        """Set all bits where damage was noted, in new memory."""
        torch = backends.torch()
        self.order.enter(*records)
        damaged = (self.damage.word().view(torch.int32) != 0).to(torch.uint8) * 255
        return [record | damaged for record in records]

    def _flat(self, values: DeviceValues, kind: FloatType = FP32) -> Any:
        torch = backends.torch()
        same = [tensor.to(kind.torch) for tensor in _tensors(values)]
        if len(same) == 1:
            return same[0]
        return torch.cat([torch.empty(0, dtype=kind.torch, device=self.device.name), *same])


@dataclass(frozen=True, slots=True)
class _Leaving:
    """Wait for records on their way to the host; see ``Departure``."""

    download: Download
    lengths: list[int]
    damage: Damage

    def done(self) -> bool:
        return self.download.done()

    def wait(self) -> list[Record]:
        arrived = self.download.wait()
        *records, word = np.split(arrived, np.cumsum(self.lengths))
        self.damage.refuse(int(word.view(np.uint32)[0]))
        return records


def _tensors(values: DeviceValues) -> Iterator[Tensor]:
    yield from values.tensors if isinstance(values, Parts) else [values]


def _spread(flat: Any, out: DeviceValues) -> None:
    """Copy ``flat`` over ``out``, rounding to its dtype."""
    start = 0
    for part in _tensors(out):
        part.copy_(flat[start : start + part.numel()])
        start += part.numel()
