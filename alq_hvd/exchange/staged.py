"""Collectives of records that lie on a device: to the host, over the network and back; nothing waits in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol

from alq_hvd.codec.arrays import B, Departure, Record, Staging
from alq_hvd.communicator.base import Pending
from alq_hvd.errors import WireFormatError


class Carrier(Protocol[B]):
    """Move records between ranks, wherever they lie; see ``Communicator``, which carries those of the host."""

    def allgather(self, payload: B, name: str) -> Pending[list[B]]:
        """Give every rank's payload to every rank, in rank order; lengths must be equal."""
        ...

    def alltoall(self, payloads: Sequence[B], name: str, *, alike: bool = False) -> Pending[list[B]]:
        """Give ``payloads[r]`` to rank r, and receive one payload from each rank, in rank order."""
        ...


@dataclass(slots=True)
class StagedPending(Generic[B]):
    """Represent a collective whose payloads are still on their way to the host, or that is in flight.

    The collective starts when the device has delivered: at ``done``, ``start`` or ``wait``, whichever finds that out.
    """

    departure: Departure
    launch: Callable[[list[Record]], Pending[list[Record]]]
    staging: Staging[B]
    started: Pending[list[Record]] | None = field(default=None)

    def start(self) -> None:
        """Wait for the device if need be, and make sure that the collective has started."""
        self._running()

    def done(self) -> bool:
        """Return whether ``wait`` would return at once."""
        return (self.started is not None or self.departure.done()) and self._running().done()

    def wait(self) -> list[B]:
        """Return what was received, on the device."""
        return self.staging.arrive(self._running().wait())

    def _running(self) -> Pending[list[Record]]:
        if self.started is None:
            self.started = self.launch(self.departure.wait())
        return self.started


@dataclass(frozen=True, slots=True)
class StagedCarrier(Generic[B]):
    """Carry records of a device over ``carrier``, which carries those of the host; see ``Carrier``.

    Records are packed: at 3 or 4 bits a tenth or an eighth of float32 gradients crosses the bus.
    """

    carrier: Carrier[Record]
    staging: Staging[B]
    rank: int

    def allgather(self, payload: B, name: str) -> StagedPending[B]:
        """Give every rank's payload to every rank."""
        return self._staged([payload], lambda host: self.carrier.allgather(host[0], name), name)

    def alltoall(self, payloads: Sequence[B], name: str, *, alike: bool = False) -> StagedPending[B]:
        """Give ``payloads[r]`` to rank r."""
        return self._staged(payloads, lambda host: self.carrier.alltoall(host, name, alike=alike), name)

    def _staged(
        self, payloads: Sequence[B], launch: Callable[[list[Record]], Pending[list[Record]]], name: str
    ) -> StagedPending[B]:
        departure = _Named(self.staging.depart(payloads), f"rank {self.rank}: {name}")
        return StagedPending(departure, launch, self.staging)


@dataclass(frozen=True, slots=True)
class _Named:
    """Say on which rank, and before which collective, damage was found."""

    departure: Departure
    where: str

    def done(self) -> bool:
        return self.departure.done()

    def wait(self) -> list[Record]:
        try:
            return self.departure.wait()
        except WireFormatError as damage:
            raise WireFormatError(f"{self.where}: {damage}") from damage
