"""What an exchange is: a generator that yields collectives in flight and returns how to decode the sum."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from alq_hvd.codec.base import Bytes, Codec, Values
from alq_hvd.codec.keys import StreamKey, stream_key
from alq_hvd.communicator.base import Communicator, Pending
from alq_hvd.config import QuantiserConfig
from alq_hvd.exchange.staged import Carrier, carrier
from alq_hvd.ledger import Ledger
from alq_hvd.levels import Levels
from alq_hvd.wire import RecordLayout, Stamp

Decode = Callable[[float, Values], None]
"""Given a scale and an output, write scale * (sum of the ranks' quantised gradients), the same bits on every rank."""
Exchange = Generator[Pending[Any], Any, Decode]


@dataclass(frozen=True, slots=True)
class Shot:
    """Say how one hop quantises. A second hop carries sums, so it has levels, and may have a width, of its own."""

    config: QuantiserConfig
    levels: Levels


class Observer(Protocol):
    """See what is quantised, to fit the next levels and to measure variance."""

    def __call__(self, shot: int, values: Values, key: StreamKey) -> None:
        """Take note that ``values`` were encoded in ``shot`` with ``key``."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """Carry what an exchange needs to know about one fusion group at one step.

    Attributes:
        shots: one entry a quantised hop; an exchange may use fewer than there are.
        observe: is told of everything that is quantised, once its collective is under way.
        name: of the group's collectives, the same on every rank.
        seed, step, group: key of the random numbers, beside rank, shot and element.
        first_element: index, within the fusion group, of the first of the values.
    """

    codec: Codec
    communicator: Communicator
    shots: tuple[Shot, ...]
    observe: Observer
    ledger: Ledger
    name: str
    seed: int
    step: int
    group: int
    first_element: int = 0

    @property
    def carrier(self) -> Carrier:
        """Return what carries the codec's records over the communicator."""
        return carrier(self.communicator, self.codec.arrays)

    def layout(self, shot: int, elements: int) -> RecordLayout:
        """Return the layout of a record of ``elements`` coordinates in ``shot``."""
        return RecordLayout(elements, self.shots[shot].config)

    def key(self, shot: int, element: int = 0) -> StreamKey:
        """Return this rank's stream of ``shot``, entered at ``element`` of the values."""
        rank = self.communicator.rank
        whole = stream_key(seed=self.seed, step=self.step, rank=rank, group=self.group, shot=shot)
        return whole.at(self.first_element + element)

    def encode(self, shot: int, values: Values, element: int = 0) -> Bytes:
        """Return this rank's record of ``values``, which start at ``element``."""
        levels = self.shots[shot].levels
        with self.ledger.timed("encode"):
            return self.codec.encode(
                values,
                self.layout(shot, len(values)),
                levels,
                self.key(shot, element),
                self._stamp(shot, self.communicator.rank),
            )

    def decode_sum(
        self, shot: int, records: Sequence[Bytes], elements: int, senders: Sequence[int], scale: float, out: Values
    ) -> None:
        """Write to ``out`` ``scale`` times the sum of the records of ``senders``, in that order."""
        stamps = [self._stamp(shot, sender) for sender in senders]
        self.codec.decode_sum(records, self.layout(shot, elements), self.shots[shot].levels, stamps, scale, out)

    def _stamp(self, shot: int, sender: int) -> Stamp:
        return Stamp(self.shots[shot].levels.digest, self.step % 2**32, sender)


class ExchangeFunction(Protocol):
    """Start to sum a fusion group over the ranks."""

    def __call__(self, values: Values, task: Task) -> Exchange:
        """Encode ``values`` and yield each collective; see ``Exchange``.

        The exchange owns ``values``: it overwrites them as it likes.
        """
        ...
