"""The one mutable object: the step, the levels, the fusion groups in flight, the counters."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from alq_hvd import log
from alq_hvd.codec.base import Codec, Values
from alq_hvd.communicator.base import Communicator
from alq_hvd.engine.adaptation.shots import AdaptiveShots
from alq_hvd.engine.chosen_exchange import ChosenExchange
from alq_hvd.engine.error_feedback import ErrorFeedback, LossScale
from alq_hvd.engine.options import UNIFORM, Options
from alq_hvd.engine.transport import Transport
from alq_hvd.errors import AlqError, CallOrderError, StateError, WireFormatError
from alq_hvd.exchange.base import Shot, Task
from alq_hvd.exchange.break_even import Decision
from alq_hvd.exchange.in_flight import GroupsInFlight
from alq_hvd.exchange.kinds import ExchangeKind
from alq_hvd.exchange.ledger import Ledger
from alq_hvd.exchange.plain import PlainAllreduce
from alq_hvd.exchange.residuals import Owner

STATE_VERSION = 5
_NO_GROUP = -1


@dataclass(slots=True)
class _World:
    """Hold what belongs to the present ranks and their open step, and is lost with them.

    Attributes:
        communicator: carries the records.
        control: carries statistics and levels.
        in_flight: groups on their way.
        signature: number of the layout in force.
        owner: of residuals; ``None`` before there is a layout.
        used: codecs of the open step.
        open: groups of that step.
    """

    communicator: Communicator
    control: Communicator
    in_flight: GroupsInFlight
    signature: int = 0
    owner: Owner | None = None
    used: list[Codec] = field(default_factory=list)
    open: list[tuple[Codec, Values]] = field(default_factory=list)


class Aggregator:
    """Sum fusion groups over the ranks, and fit the levels to them as it goes.

    ``connect`` it once; then in each step ``start`` every group once, after that take every group's ``result`` once,
    and ``end_step``. All ranks must agree on the options, the groups and their lengths, and take the same number of
    steps; groups may be started, and results taken, in any order on any rank.

    Args:
        options: shared by all ranks.
        codec: turns groups into records, but for those that are started with another one.
        sampled: levels are fitted to what ``sample`` is given, not to the gradients of the scheduled step.
        loss_scale: returns by what the open step's gradients are multiplied, for error feedback; ``None`` where it is
            unknown.
        exchange: to take whatever the options name; ``None`` for what they name.

    Attributes:
        shots: the quantised hops with their levels.
        exchange: how groups travel, and what was decided about it.
    """

    def __init__(
        self,
        options: Options,
        codec: Codec,
        *,
        sampled: bool = False,
        loss_scale: LossScale | None = None,
        exchange: ExchangeKind | None = None,
    ) -> None:
        self._options = options
        self._codec = codec
        self.ledger = Ledger()
        self.step = 0
        self.exchange = ChosenExchange(options, exchange)
        self._feedback = ErrorFeedback(options.error_feedback, loss_scale)
        self.shots = AdaptiveShots(options, self.exchange, self.ledger, sampled=sampled)
        self.disconnect()

    def disconnect(self) -> None:
        """Leave the world: forget its ranks, its exchange, what is in flight and what the open step has gathered."""
        self._joined: _World | None = None
        self.exchange.disconnect()
        self.shots.forget()

    @property
    def _world(self) -> _World:
        if self._joined is None:
            raise CallOrderError("expected ranks to be connected before they exchange anything, got none: call connect")
        return self._joined

    def connect(self, transport: Transport, control: Communicator) -> None:
        """Join the world that ``transport`` reaches, as after ``disconnect``.

        Args:
            transport: carries the records.
            control: carries statistics and levels; may be the same.
        """
        self._joined = _World(transport.gradients, control, GroupsInFlight(self.ledger))
        self.exchange.connect(transport)

    def lay_out(self, plan: int) -> None:
        """Say, by a number, which fusion groups the chosen exchange will get: residuals of others are of no use."""
        world = self._world
        world.signature = plan
        world.owner = Owner(world.communicator.rank, world.communicator.size, plan, self.exchange.name)
        residuals = self._feedback.residuals
        if residuals is not None:
            for shot in self.shots.all:
                shot.is_measured &= residuals.owner == world.owner
            residuals.belong_to(world.owner)

    def choose_by_time(self, groups: Sequence[int], plain: PlainAllreduce, codec: Codec | None = None) -> Decision:
        """Choose the exchange by time; see ``ChosenExchange.choose_by_time``.

        Args:
            groups: elements of each fusion group of a step, as they are without a measurement.
            plain: the host's all-reduce.
            codec: to measure with; the one given to ``Aggregator`` when ``None``.
        """
        return self.exchange.choose_by_time(self._task("trial", _NO_GROUP, codec or self._codec), groups, plain)

    @property
    def levels_fingerprint(self) -> int:
        """Return 16 bits that change with the levels of any shot and their versions."""
        return self.shots.fingerprint

    @property
    def position(self) -> dict[str, Any]:
        """Return the state that all ranks must share before they exchange anything."""
        return {"completed steps": self.step, **self.shots.position}

    @property
    def wants_samples(self) -> bool:
        """Return whether ``sample`` is to be called before the open step ends."""
        return self.shots.samples(self.step)

    def start(self, group: int, values: Values, codec: Codec | None = None, *, out: Values | None = None) -> None:
        """Encode ``values`` and start their exchange; they belong to it until ``result`` has written the sum there.

        Args:
            group: the same number for the same gradients on every rank.
            values: of the group, where ``codec`` takes them.
            codec: of this group; the one given to ``Aggregator`` when ``None``.
            out: where the sum goes, elsewhere than over ``values``; a reduce-scatter writes that of one chunk.
        """
        codec, world, out = codec or self._codec, self._world, values if out is None else out
        if not world.open:
            self._feedback.begin_step()
        world.open.append((codec, out))
        if codec not in world.used:
            world.used.append(codec)
        task = self._task(f"group{group}", group, codec)
        self.shots.start()
        world.in_flight.start(group, self.exchange(values, task), out)

    def advance(self) -> None:
        """Move every group forward whose collective has arrived, without waiting."""
        if self._joined is not None:
            self._joined.in_flight.advance()

    def result(self, group: int, scale: float) -> Values:
        """Wait for ``group`` and return its values, where ``scale`` times the sum of the quantised gradients now is.

        On a device the sum may still be on its way there, and whether it was damaged shows at ``end_step``.
        """
        return self._world.in_flight.finish(group, scale, self.exchange.collectives)

    def sampling(self) -> AbstractContextManager[None]:
        """Call ``sample`` inside; what the user's code raises there refuses the fit, which is then tried again."""
        return self.shots.sampling(self._world.communicator.rank)

    def sample(self, values: Values, codec: Codec | None = None) -> None:
        """Let a group of a sampled gradient count for the next levels: before ``end_step``."""
        with self.ledger.timed("adapt"):
            self.shots.all[0].gather(codec or self._codec, values)

    def end_exact_step(self, *, counted: bool) -> None:
        """Close a step that was not quantised; when ``counted``, it is one of the training's steps.

        A step that some rank has left out, as with ``hvd.join()``, does not count: those ranks are where they were.
        """
        if counted:
            self.shots.end_step(None, self.step)
        self._close(counted)

    def end_step(self) -> None:
        """Close the step; at a scheduled one fit the levels of the next, together with all ranks.

        Raises:
            WireFormatError: a device found that a record of this step was damaged: its results must not be used. This
                waits for the device, once a step.
        """
        world = self._joined
        if world is None:  # one rank, or nothing to quantise
            self.shots.end_step(None, self.step)
            self._close(counted=True)
            return
        rank = world.communicator.rank
        for codec in world.used:
            try:
                codec.raise_for_damage()
            except WireFormatError as damage:
                raise WireFormatError(f"rank {rank}, step {self.step}: {damage}") from damage
        changed = self.shots.end_step(world.control, self.step)
        self._feedback.end_step(world.open, self._options.bucket_size, changed, rank, self.step)
        self.shots.warn(rank, self.step, of_loss=self._feedback.residuals is None)
        world.used, world.open = [], []
        self._close(counted=True)

    def _close(self, counted: bool) -> None:
        self.ledger.end_step()
        self.step += counted
        log.at_step(self.step)

    def take_over(self, before: Aggregator) -> None:
        """Go on where ``before``, of other options, has come to, with its step and counters.

        Shots that are quantised as they were there keep their levels; the others are fitted as soon as possible.
        """
        self.step, self.ledger.bytes_total = before.step, before.ledger.bytes_total
        self.ledger.seconds.update(before.ledger.seconds)
        same_method = before._options.method_name == self._options.method_name
        kept = {shot.index: shot for shot in before.shots.all if same_method}
        for shot in self.shots.all:
            old = kept.get(shot.index)
            if old is not None and old.config == shot.config:
                shot.load_state_dict(old.state_dict())
            else:
                shot.fit_is_due = self._options.resolve().policy.adapts

    def scale_changed(self, old: float, new: float) -> None:
        """Say, between steps, that gradients are multiplied by ``new`` instead of by ``old`` from now on.

        Raises:
            ConfigurationError: they are not positive.
        """
        self._feedback.scale_changed(old, new)

    def _task(self, name: str, group: int, codec: Codec) -> Task:
        world = self._world
        measures = self.step % self._options.measure_every == 0
        observe = partial(self.shots.observe, codec, self.step, measures)
        return Task(
            codec=codec,
            communicator=world.communicator,
            shots=tuple(Shot(shot.config, shot.levels, shot.contracts) for shot in self.shots.all),
            observe=observe if self.shots.watches(self.step, measures) else None,
            ledger=self.ledger,
            name=f"{self._options.name}.{name}",
            seed=self._options.seed,
            step=self.step,
            group=group,
            residuals=self._feedback.residuals,
            correlated=self._options.correlates,
            direct=self._options.device_records,
            signature=zlib.crc32(struct.pack("<II", world.signature, group & 0xFFFFFFFF)),
        )

    def metrics(self) -> dict[str, Any]:
        """Return what was counted so far, as plain values; ``QuantisedCompressor.metrics`` explains the keys."""
        first, *later = self.shots.metrics()
        return {
            "method": self._options.method_name,
            "bits": self._options.plain_bits,
            "widths": self._options.widths,
            "step": self.step,
            "bytes_per_step": self.ledger.bytes_last_step,
            "bytes_total": self.ledger.bytes_total,
            "exchange": self.exchange.name,
            "break_even": self.exchange.decision and self.exchange.decision.as_json(),
            **first,
            "later_shots": later,
            "seconds": dict(self.ledger.seconds),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to continue bit for bit: call it between steps."""
        first, *later = (shot.state_dict() for shot in self.shots.all)
        return {
            **self._identity,
            "step": self.step,
            **first,
            "later_shots": later,
            "break_even": self.exchange.remembered,
            "bytes_total": self.ledger.bytes_total,
            "residuals": self._feedback.state_dict(),
        }

    @property
    def _identity(self) -> dict[str, Any]:
        """Return what a state must share with the run that loads it."""
        options = self._options
        chosen = {"method": options.method_name, "bits": options.plain_bits, "seed": options.seed}
        dithers = [options.dithers(shot) for shot in range(len(options.bits_of_shots))]
        drawn = {"correlated": options.correlates, "dither": dithers, "error_feedback": options.error_feedback}
        return {"state_version": STATE_VERSION, **chosen, "widths": options.widths, **drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            StateError: when the state is of another method, width or seed, or is not such a state.
        """
        try:
            for name, own in self._identity.items():
                # States of versions that knew of no other widths name none.
                if (state.get(name, UNIFORM) if name == "widths" else state[name]) != own:
                    raise StateError(f"{name}: expected {own!r}, got a state with {state.get(name, UNIFORM)!r}")
            residuals = state["residuals"]
            # A state of an all-gather has no later shot, and a run that goes on with one needs none.
            for shot, saved in zip(self.shots.all, [state, *state["later_shots"]], strict=False):
                shot.load_state_dict(saved)
            self.step, self.exchange.remembered = int(state["step"]), state["break_even"]
            self.ledger.bytes_total = int(state["bytes_total"])
            owner = None if self._joined is None else self._joined.owner
            self._feedback.load_state_dict(residuals, self.shots.all, owner)
        except AlqError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise StateError(
                f"expected the result of state_dict(), got something else: {type(error).__name__}: {error}"
            ) from error
