"""Collectives of records that stay on their device: over NCCL, where the host has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, runtime_checkable

from alq_hvd.codec.arrays import B, Staging
from alq_hvd.communicator.base import Pending
from alq_hvd.exchange.staged import Carrier


@runtime_checkable
class TakesTensors(Protocol):
    """A communicator that carries tensors of devices, too."""

    @property
    def tensors(self) -> Carrier[Any]:
        """Return what carries them: payloads are torch.uint8[n] of one device."""
        ...


@dataclass(frozen=True, slots=True)
class DirectCarrier(Generic[B]):
    """Carry records of a device as they lie; see ``Carrier``.

    A collective starts at once, and waits on the device for the kernels that write its record.
    """

    tensors: Carrier[B]
    staging: Staging[B]

    def allgather(self, payload: B, name: str) -> Pending[list[B]]:
        """Give every rank's payload to every rank."""
        (guarded,) = self.staging.guarded([payload])
        return self.tensors.allgather(guarded, name)

    def alltoall(self, payloads: Sequence[B], name: str, *, alike: bool = False) -> Pending[list[B]]:
        """Give ``payloads[r]`` to rank r."""
        return self.tensors.alltoall(self.staging.guarded(payloads), name, alike=alike)
