"""What an exchange is: a generator that yields collectives in flight and returns how to decode the sum."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Generic, Protocol

from alq_hvd.codec.base import B, Codec, V, Values
from alq_hvd.codec.keys import StreamKey, stream_key
from alq_hvd.codec.strata import strata_for
from alq_hvd.communicator.base import Communicator, Pending
from alq_hvd.exchange.carriers import carrier
from alq_hvd.exchange.ledger import Ledger
from alq_hvd.exchange.residuals import Residuals
from alq_hvd.exchange.staged import Carrier
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels_by_width import AnyLevels
from alq_hvd.quantiser.record import RecordLayout, Stamp

Decode = Callable[[float, V], None]
"""Given a scale and an output, write scale * (sum of the ranks' quantised gradients), the same bits on every rank."""
Exchange = Generator[Pending[Any], Any, Decode[V]]


@dataclass(frozen=True, slots=True)
class Shot:
    """Say how one hop quantises. A second hop carries sums, so it has levels, and may have a width, of its own.

    Attributes:
        contracts: records lose less than they carry, as error feedback demands.
    """

    config: QuantiserConfig
    levels: AnyLevels
    contracts: bool = True


# A step asks for each layout a dozen times, and the next step for the same ones: offsets are worked out once.
_layout = lru_cache(maxsize=4096)(RecordLayout)


class Observer(Protocol):
    """See what is quantised, to fit the next levels and to measure variance."""

    def __call__(self, shot: int, values: Values, key: StreamKey) -> None:
        """Take note that ``values`` were encoded in ``shot`` with ``key``."""
        ...


@dataclass(frozen=True, slots=True)
class Task(Generic[V, B]):
    """Carry what an exchange needs to know about one fusion group at one step.

    Attributes:
        shots: one entry a quantised hop; an exchange may use fewer than there are.
        observe: is called with all that is quantised, once its collective is under way; ``None`` for no observer.
        name: of the group's collectives, the same on every rank.
        seed, step, group: key of the random numbers, beside rank, shot and element.
        first_element: index, within the fusion group, of the first of the values.
        correlated: where ranks quantise the same coordinates, they share out among them what rounding draws.
        residuals: of this rank, for error feedback; ``None`` without.
        direct: records of a device do not go by way of the host.
        signature: 32 bits that tell whose gradients these are; every record carries them, mixed with the levels'.
    """

    codec: Codec[V, B]
    communicator: Communicator
    shots: tuple[Shot, ...]
    observe: Observer | None
    ledger: Ledger
    name: str
    seed: int
    step: int
    group: int
    first_element: int = 0
    correlated: bool = False
    residuals: Residuals | None = None
    direct: bool = False
    signature: int = 0

    @property
    def carrier(self) -> Carrier[B]:
        """Return what carries the codec's records over the communicator."""
        return self.carrier_over(self.communicator)

    def carrier_over(self, communicator: Communicator) -> Carrier[B]:
        """Return what carries the codec's records over ``communicator``."""
        return carrier(communicator, self.codec.arrays, self.direct)

    def layout(self, shot: int, elements: int) -> RecordLayout:
        """Return the layout of a record of ``elements`` coordinates in ``shot``."""
        return _layout(elements, self.shots[shot].config)

    def key(self, shot: int, element: int = 0) -> StreamKey:
        """Return this rank's stream of ``shot``, entered at ``element`` of the values.

        All ranks quantise the same coordinates in the first shot, and each its own in the second.
        """
        ranks = self.communicator
        strata = strata_for(ranks.size) if self.correlated and shot == 0 else 1
        circumstances = {"seed": self.seed, "step": self.step, "group": self.group, "shot": shot}
        whole = stream_key(**circumstances, rank=ranks.rank, strata=strata)
        return whole.at(self.first_element + element)

    def hop(self, shot: int, values: V, element: int = 0) -> Hop[V, B]:
        """Return ``values``, which start at ``element``, ready to be quantised in ``shot``."""
        arrays, residual = self.codec.arrays, None
        if self.residuals is not None and self.shots[shot].contracts:
            start = self.first_element + element
            residual = self.residuals.of(self.group, shot, start, len(values), arrays)
        hop: Hop[V, B] = Hop(self, shot, values, element, residual, values)
        if residual is None or self.observe is None:
            return hop
        with hop.holding_back(values, residual):
            return replace(hop, seen=arrays.plus(values, residual))

    def is_unseen(self, shot: int) -> bool:
        """Return whether only the codec needs the values of ``shot``."""
        return self.observe is None and (self.residuals is None or not self.shots[shot].contracts)

    def decode_sum(
        self, shot: int, records: Sequence[B], elements: int, senders: Sequence[int], scale: float, out: V
    ) -> None:
        """Write to ``out`` ``scale`` times the sum of the records of ``senders``, in that order."""
        stamps = [self.stamp(shot, sender) for sender in senders]
        self.codec.decode_sum(records, self.layout(shot, elements), self.shots[shot].levels, stamps, scale, out)

    def stamp(self, shot: int, sender: int) -> Stamp:
        """Return what a record of ``sender`` must carry."""
        return Stamp(self.shots[shot].levels.digest ^ self.signature, self.step % 2**32, sender)


@dataclass(frozen=True, slots=True)
class Hop(Generic[V, B]):
    """Values that one shot quantises, whole or in chunks.

    Attributes:
        element: at which they start in the values of the exchange.
        residual: what earlier records of these coordinates have lost; ``None`` without error feedback.
        seen: what is quantised, for its observer: values and residual.
    """

    task: Task[V, B]
    shot: int
    values: V
    element: int
    residual: V | None
    seen: V

    def encode(self, start: int = 0, stop: int | None = None) -> B:
        """Return this rank's record of the values from ``start`` up to ``stop``, on bucket boundaries."""
        task, part = self.task, slice(start, len(self.values) if stop is None else stop)
        values, residual = self.values[part], None if self.residual is None else self.residual[part]
        with task.ledger.timed("encode"), self.holding_back(values, residual):
            return task.codec.encode(
                values,
                task.layout(self.shot, len(values)),
                task.shots[self.shot].levels,
                task.key(self.shot, self.element + start),
                task.stamp(self.shot, task.communicator.rank),
                residual,
            )

    @contextmanager
    def holding_back(self, values: V, residual: V | None) -> Iterator[None]:
        """Keep what is owed to values that are exactly zero, inside, for a step in which they are not.

        What was frozen, masked or pruned, and a row of an embedding that no rank has seen, stay where they are.
        """
        held = None if residual is None else self.task.codec.arrays.hold_back(values, residual)
        yield
        if held is not None:
            owed: Any = residual
            owed += held

    def observe(self, start: int = 0, stop: int | None = None) -> None:
        """Tell the observer, if there is one, once a collective is under way and time would pass anyway.

        Args:
            start, stop: of the values that were encoded as one record.
        """
        if self.task.observe is not None:
            seen = self.seen[start : len(self.values) if stop is None else stop]
            self.task.observe(self.shot, seen, self.task.key(self.shot, self.element + start))


class ExchangeFunction(Protocol):
    """Start to sum a fusion group over the ranks."""

    def __call__(self, values: V, task: Task[V, B]) -> Exchange[V]:
        """Encode ``values`` and yield each collective; see ``Exchange``.

        The exchange owns ``values``: it overwrites them as it likes.
        """
        ...
