"""What an exchange is: a generator that yields collectives in flight and returns how to decode the sum."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

from alq_hvd.codec.base import Codec, FloatArray
from alq_hvd.communicator.base import Communicator, Pending
from alq_hvd.config import QuantiserConfig
from alq_hvd.ledger import Ledger
from alq_hvd.levels import Levels

Decode = Callable[[float], FloatArray]
"""Given a scale, return scale * (sum of the ranks' quantised gradients), the same bits on every rank."""
Exchange = Generator[Pending[Any], Any, Decode]


@dataclass(frozen=True, slots=True)
class Task:
    """Carry what an exchange needs to know about one fusion group at one step.

    Attributes:
        name: of the group's collectives, the same on every rank.
        seed, step, group: key of the random numbers, beside rank and shot.
    """

    codec: Codec
    communicator: Communicator
    config: QuantiserConfig
    levels: Levels
    ledger: Ledger
    name: str
    seed: int
    step: int
    group: int


class ExchangeFunction(Protocol):
    """Start to sum a fusion group over the ranks."""

    def __call__(self, values: FloatArray, task: Task) -> Exchange:
        """Encode ``values`` float32[elements] and yield each collective; see ``Exchange``."""
        ...


class InFlight:
    """Drive one exchange: forward when its collective has arrived, or to the end."""

    def __init__(self, exchange: Exchange, ledger: Ledger) -> None:
        self._exchange = exchange
        self._ledger = ledger
        self._pending: Pending[Any] | None = None
        self._decode: Decode | None = None
        self._resume(None)

    def advance(self) -> None:
        """Move past every collective that has arrived, without waiting."""
        while self._pending is not None and self._pending.done():
            self._resume(self._pending.wait())

    def finish(self, scale: float) -> FloatArray:
        """Wait for what is missing and return ``scale`` times the sum."""
        while self._pending is not None:
            with self._ledger.timed("exchange"):
                arrived = self._pending.wait()
            self._resume(arrived)
        assert self._decode is not None
        with self._ledger.timed("decode"):
            return self._decode(scale)

    def _resume(self, arrived: Any) -> None:
        try:
            self._pending = self._exchange.send(arrived)
        except StopIteration as stop:
            self._pending, self._decode = None, stop.value
