"""The one mutable object: the step, the levels, the fusion groups in flight, the counters."""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Sequence
from functools import partial
from typing import Any

from alq_hvd.codec.base import Codec, Values
from alq_hvd.codec.keys import StreamKey
from alq_hvd.communicator.base import Communicator
from alq_hvd.engine.adaptation.shot import AdaptiveShot
from alq_hvd.engine.chosen_exchange import ChosenExchange
from alq_hvd.engine.options import Options
from alq_hvd.errors import StateError, WireFormatError
from alq_hvd.exchange.base import Shot, Task
from alq_hvd.exchange.in_flight import GroupsInFlight
from alq_hvd.exchange.ledger import Ledger
from alq_hvd.exchange.residuals import Owner, Residuals
from alq_hvd.exchange.trial import Stock
from alq_hvd.planning.break_even import Decision

STATE_VERSION = 4
_NO_GROUP = -1
_logger = logging.getLogger(__name__)


class Aggregator:
    """Sum fusion groups over the ranks, and fit the levels to them as it goes.

    ``connect`` it once; then in each step ``start`` every group once, after that take every group's ``result`` once,
    and ``end_step``. All ranks must agree on the options, the groups and their lengths, and take the same number of
    steps; groups may be started, and results taken, in any order on any rank.

    Args:
        options: shared by all ranks.
        codec: turns groups into records, but for those that are started with another one.
        sampled: levels are fitted to what ``sample`` is given, not to the gradients of the scheduled step.

    Attributes:
        shots: the quantised hops with their levels, the gradients' own first. The exchange may use fewer of them.
        exchange: how groups travel, and what was decided about it.
    """

    def __init__(self, options: Options, codec: Codec, *, sampled: bool = False) -> None:
        self._options = options
        self._method = options.resolve()
        self._schedule = options.parsed_schedule()
        self._codec = codec
        self._sampled = sampled
        self.ledger = Ledger()
        self.step = 0
        self.exchange = ChosenExchange(options)
        self._residuals = Residuals() if options.error_feedback else None
        self.shots = tuple(
            AdaptiveShot(index, options.quantiser(index), self._method.policy, self._method.initial(bits))
            for index, bits in enumerate(options.bits_of_shots)
        )
        self.disconnect()

    def disconnect(self) -> None:
        """Leave the world: forget its ranks, its exchange, what is in flight and what the open step has gathered."""
        self._communicator: Communicator | None = None
        self._control: Communicator | None = None
        self._owner: Owner | None = None
        self.exchange.disconnect()
        self._in_flight = GroupsInFlight(self.ledger)
        self._used: list[Codec] = []  # in the open step
        self._gathered = False
        for shot in self.shots:
            shot.forget()

    def connect(self, communicator: Communicator, control: Communicator) -> None:
        """Join the world that ``communicator`` reaches, as after ``disconnect``.

        Args:
            communicator: carries the records.
            control: carries statistics and levels; may be the same.
        """
        self._communicator, self._control = communicator, control
        self.exchange.connect(communicator)

    def lay_out(self, plan: int) -> None:
        """Say, by a number, which fusion groups the chosen exchange will get: residuals of others are of no use."""
        assert self._communicator is not None
        self._owner = Owner(self._communicator.rank, self._communicator.size, plan, self.exchange.name)
        if self._residuals is not None:
            for shot in self.shots:
                shot.is_measured &= self._residuals.owner == self._owner
            self._residuals.belong_to(self._owner)

    def settle(self, groups: Sequence[int], stock: Stock, codec: Codec | None = None) -> Decision:
        """Choose the exchange by time; see ``ChosenExchange.settle``.

        Args:
            groups: elements of each fusion group of a step.
            stock: plain Horovod.
            codec: to measure with; the one given to ``Aggregator`` when ``None``.
        """
        return self.exchange.settle(self._task("trial", _NO_GROUP, codec or self._codec), groups, stock)

    @property
    def levels_fingerprint(self) -> int:
        """Return 16 bits that change with the levels of any shot and their versions."""
        history = b"".join(struct.pack("<II", shot.levels.digest, shot.levels.version) for shot in self.shots)
        return zlib.crc32(history) & 0xFFFF

    @property
    def position(self) -> dict[str, Any]:
        """Return the state that all ranks must share before they exchange anything."""
        history = [f"version {shot.levels.version}, digest {shot.levels.digest:#010x}" for shot in self.shots]
        return {"completed steps": self.step, "levels": history}

    @property
    def gathers_statistics(self) -> bool:
        """Return whether the open step's gradients fit the next levels."""
        return self._method.policy.adapts and self.step in self._schedule

    def start(self, group: int, values: Values, codec: Codec | None = None) -> None:
        """Encode ``values`` and start their exchange; they belong to it until ``result`` has written the sum there.

        Args:
            group: the same number for the same gradients on every rank.
            values: of the group, where ``codec`` takes them.
            codec: of this group; the one given to ``Aggregator`` when ``None``.
        """
        codec = codec or self._codec
        if codec not in self._used:
            self._used.append(codec)
        task = self._task(f"group{group}", group, codec)
        self._gathered |= self.gathers_statistics
        self._in_flight.start(group, self.exchange(values, task), values)

    def advance(self) -> None:
        """Move every group forward whose collective has arrived, without waiting."""
        self._in_flight.advance()

    def result(self, group: int, scale: float) -> Values:
        """Wait for ``group`` and return its values, where ``scale`` times the sum of the quantised gradients now is.

        On a device the sum may still be on its way there, and whether it was damaged shows at ``end_step``.
        """
        return self._in_flight.finish(group, scale, self.exchange.collectives)

    def sample(self, values: Values, codec: Codec | None = None) -> None:
        """Let a group of a sampled gradient count for the next levels: before ``end_step``."""
        with self.ledger.timed("adapt"):
            self.shots[0].gather(codec or self._codec, values)

    def end_step(self) -> None:
        """Close the step; at a scheduled one fit the levels of the next, together with all ranks.

        Raises:
            WireFormatError: a device found that a record of this step was damaged: its results must not be used. This
                waits for the device, once a step.
        """
        for codec in self._used:
            try:
                codec.raise_for_damage()
            except WireFormatError as damage:
                assert self._communicator is not None
                raise WireFormatError(f"rank {self._communicator.rank}, step {self.step}: {damage}") from damage
        self._used = []
        if self._gathered:
            assert self._control is not None
            with self.ledger.timed("adapt"):
                for shot in self.shots[: self.exchange.shots]:
                    self.ledger.sent(shot.adapt(self._control, self.step, self._options.name))
        self._gathered = False
        for shot in self.shots:
            if shot.end_step() and self._residuals is not None:
                self._pause_or_resume(shot)
        self.ledger.end_step()
        self.step += 1

    @property
    def _measures(self) -> bool:
        """Return whether the open step's gradients are looked at, and not only sent.

        With error feedback new levels are measured at once, or as soon as all gradients are finite.
        """
        if self._residuals is not None and not all(shot.is_measured for shot in self.shots[: self.exchange.shots]):
            return True
        return self._measures_every_shot

    @property
    def _measures_every_shot(self) -> bool:
        return self.gathers_statistics or self.step % self._options.measure_every == 0

    def _pause_or_resume(self, shot: AdaptiveShot) -> None:
        """Drop residuals that would grow from step to step, and say so."""
        assert self._communicator is not None and self._residuals is not None
        where = (self._communicator.rank, self.step, shot.index + 1, shot.relative_variance)
        if shot.contracts:
            _logger.info("rank %d, step %d: error feedback goes on: records of shot %d lose %.3g of what they carry",
                         *where)  # fmt: skip
            return
        self._residuals.drop(shot.index)
        _logger.warning(
            "rank %d, step %d: error feedback pauses: expected records that lose less than they carry, those of shot "
            "%d lose %.3g times as much (relative variance), and residuals would grow from step to step. Take more "
            "bits, rotate=True, or a smaller bucket_size",
            *where,
        )

    def _observe(self, codec: Codec, shot: int, values: Values, key: StreamKey) -> None:
        if self.gathers_statistics and not (self._sampled and shot == 0):
            with self.ledger.timed("adapt"):
                self.shots[shot].gather(codec, values)
        if self._measures_every_shot or not self.shots[shot].is_measured:
            self.shots[shot].measure(codec, values, key)

    def _task(self, name: str, group: int, codec: Codec) -> Task:
        assert self._communicator is not None
        return Task(
            codec=codec,
            communicator=self._communicator,
            shots=tuple(Shot(shot.config, shot.levels, shot.contracts) for shot in self.shots),
            observe=partial(self._observe, codec) if self._measures else None,
            ledger=self.ledger,
            name=f"{self._options.name}.{name}",
            seed=self._options.seed,
            step=self.step,
            group=group,
            residuals=self._residuals,
            direct=self._options.device_records,
        )

    def metrics(self) -> dict[str, Any]:
        """Return what was counted so far, as plain values; ``QuantisedCompressor.metrics`` explains the keys."""
        first, *later = self.metrics_of_shots()
        return {
            "method": self._options.method,
            "bits": self._options.plain_bits,
            "step": self.step,
            "bytes_per_step": self.ledger.bytes_last_step,
            "bytes_total": self.ledger.bytes_total,
            "exchange": self.exchange.name,
            "break_even": self.exchange.decision and self.exchange.decision.as_json(),
            **first,
            "later_shots": later,
            "seconds": dict(self.ledger.seconds),
        }

    def metrics_of_shots(self) -> list[dict[str, Any]]:
        """Return the levels, variance and adaptations of every shot the exchange takes, the gradients' own first."""
        used = self.shots[: self.exchange.shots]
        own = [shot.metrics() for shot in used]
        return [own[0], *({"bits": shot.config.bits, **later} for shot, later in zip(used[1:], own[1:], strict=True))]

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to continue bit for bit: call it between steps."""
        first, *later = (shot.state_dict() for shot in self.shots)
        return {
            **self._identity,
            "step": self.step,
            **first,
            "later_shots": later,
            "break_even": self.exchange.remembered,
            "bytes_total": self.ledger.bytes_total,
            "residuals": self._residuals and self._residuals.state_dict(),
        }

    @property
    def _identity(self) -> dict[str, Any]:
        """Return what a state must share with the run that loads it."""
        options = self._options
        chosen = {"method": options.method, "bits": options.plain_bits, "seed": options.seed}
        return {"state_version": STATE_VERSION, **chosen, "error_feedback": options.error_feedback}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            StateError: when the state is of another method, width or seed, or is not such a state.
        """
        try:
            for name, own in self._identity.items():
                if state[name] != own:
                    raise StateError(f"{name}: expected {own!r}, got a state with {state[name]!r}")
            residuals = self._residuals and Residuals.from_state_dict(state["residuals"])
            # A state of an all-gather has no later shot, and a run that goes on with one needs none.
            for shot, saved in zip(self.shots, [state, *state["later_shots"]], strict=False):
                shot.load_state_dict(saved)
            self.step, self.exchange.remembered = int(state["step"]), state["break_even"]
            self.ledger.bytes_total = int(state["bytes_total"])
            if residuals is not None:
                self._residuals = residuals
                for paused in (shot for shot in self.shots if not shot.contracts):
                    residuals.drop(paused.index)
                if self._owner is not None:
                    residuals.belong_to(self._owner)
        except (KeyError, TypeError) as error:
            raise StateError(f"expected the result of state_dict(), got one without {error}") from error
