"""A training's way through worlds and steps, whatever hands over the gradients: all that front ends share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alq_hvd.codec.base import Codec, FloatArray, Values
from alq_hvd.codec.choice import Codecs
from alq_hvd.communicator.base import Pending
from alq_hvd.engine.aggregator import Aggregator
from alq_hvd.engine.error_feedback import LossScale
from alq_hvd.engine.fusion import FusionGroups, Sampler, sampled_groups
from alq_hvd.engine.handshake import fingerprint
from alq_hvd.engine.joining import agree_on_layout, join, rival
from alq_hvd.engine.layout import FusionLayout, Gradient, usual_fusion
from alq_hvd.engine.options import Options
from alq_hvd.engine.transport import Attendance, Transport, TransportMaker
from alq_hvd.errors import CallOrderError
from alq_hvd.exchange.base import Task
from alq_hvd.exchange.break_even import PLAIN
from alq_hvd.exchange.in_flight import GroupsInFlight
from alq_hvd.exchange.ledger import Ledger
from alq_hvd.exchange.plain import GatheredAllreduce, PlainAllreduce, PlainExchange
from alq_hvd.version import __version__


class Session:
    """Sum the gradients of one model over the ranks, step by step, in one world of ranks after another.

    In each step, in this order:

    1. ``notice_world``, then ``begin`` once, when the first gradient is there.
    2. ``fill`` every gradient, or ``start`` every group; in a world's first step only after ``lay_out``. Groups
       leave as they are complete.
    3. ``flush`` once; then ``take`` every gradient, or the ``result`` of every group.
    4. ``end_step``.

    A step is exact, and not quantised, before the options' ``start_at``, where some rank takes no part in it, where all
    ranks repeat what was reduced before, and where plain all-reduce was measured to be faster.

    All ranks must agree on: the options, the layout, the number of steps. Groups may be filled, and results taken, in
    any order on any rank.

    Args:
        options: of this rank.
        transport: makes the way to the others, when it is first needed.
        codecs: give each place its codec; those that the options name when ``None``.
        sampler: levels are fitted to the gradients it returns, and not to those of the scheduled step.
        overwrites: gradients that were filled in are overwritten with their means.
        loss_scale: returns by what gradients are multiplied at present; for error feedback.
        in_order: groups leave in their own order, and wait for each other: the host pairs collectives by order.

    Attributes:
        rank, size: in the present world; 0 before there is one.
        is_plain: measured: compression would not pay in this world.
        is_reconfigured: options have changed in this world, and ranks have not agreed on the new ones yet.
        attendance: who takes part in the open step; ``None`` before that is known.
        levels_mark: 16 bits of the levels with which the open step began.
    """

    def __init__(
        self,
        options: Options,
        transport: TransportMaker,
        *,
        codecs: Codecs | None = None,
        sampler: Sampler | None = None,
        overwrites: bool = True,
        loss_scale: LossScale | None = None,
        in_order: bool = False,
    ) -> None:
        self.codecs = codecs or Codecs(options.codec)
        self._make_transport = transport
        self._transport: Transport | None = None
        self._sampler, self._loss_scale = sampler, loss_scale
        self._overwrites, self._in_order = overwrites, in_order
        self.is_reconfigured = False
        self.aggregator = self._under(options)
        self.reset()

    def _under(self, options: Options) -> Aggregator:
        self.options = options
        self.exact_method = options.resolve().exact
        self.configuration = fingerprint({**options.shared(), "alq_hvd": __version__})
        sampled = self._sampler is not None
        return Aggregator(options, self.codecs.host, sampled=sampled, loss_scale=self._loss_scale)

    def reconfigure(self, **changes: Any) -> None:
        """Go on under other options from the next step on; call it between the same two steps on every rank.

        Step and counters stay, and so do the levels of shots that are quantised as before. All ranks agree again.

        Raises:
            ConfigurationError: for a value out of range; nothing has changed then.
            TypeError: for an option that there is not.
        """
        before, options = self.aggregator, self.options.changed(**changes)
        self.aggregator = self._under(options)
        self.aggregator.take_over(before)
        self._transport, self.is_reconfigured = None, True
        self.reset()

    def reset(self) -> None:
        """Forget the world and all that was under way in it; levels, step and counters stay."""
        self._world: object = None
        self.rank, self.size = 0, 0
        self.is_plain = False
        self._joined = False  # options agreed on in this world
        self._laid_out: FusionGroups | None = None  # of the layout in force
        self._agreed = False  # on that layout
        self._exact = GroupsInFlight(self.ledger)
        self._forget_step()
        self.aggregator.disconnect()

    def _forget_step(self) -> None:
        self.is_open, self.levels_mark = False, 0
        self.attendance: Attendance | None = None
        self._asked: Pending[Attendance] | None = None
        self._ready: list[tuple[int, Values, Codec]] = []
        self._next = 0

    @property
    def transport(self) -> Transport:
        """Return the way to the other ranks."""
        if self._transport is None:
            self._transport = self._make_transport()
        return self._transport

    @property
    def ledger(self) -> Ledger:
        """Return the counters of bytes and seconds."""
        return self.aggregator.ledger

    @property
    def step(self) -> int:
        """Return the number of completed steps."""
        return self.aggregator.step

    @property
    def is_idle(self) -> bool:
        """Return whether gradients are left to the host: method ``none``, one rank, or measured not to pay."""
        return self.exact_method or self.size == 1 or self.is_plain

    @property
    def groups(self) -> FusionGroups:
        """Return the fusion groups of the layout in force.

        Raises:
            CallOrderError: there is none yet.
        """
        if self._laid_out is None:
            raise CallOrderError(f"rank {self.rank}: expected lay_out before gradients are filled in, got none")
        return self._laid_out

    @property
    def is_laid_out(self) -> bool:
        """Return whether all ranks of this world have agreed on where gradients go."""
        return self._agreed

    def notice_world(self) -> bool:
        """Return whether the ranks are others than at the last call; all that belonged to those is forgotten then."""
        communicator = self.transport.gradients
        if communicator.world is self._world:
            return False
        self.reset()
        self.rank, self.size, self._world = communicator.rank, communicator.size, communicator.world
        return True

    def begin(self, *, repeats: bool = False) -> None:
        """Open a step, and ask who takes part.

        Args:
            repeats: the gradient is what an earlier step has reduced, unchanged.
        """
        self.is_open = True
        self.levels_mark = self.aggregator.levels_fingerprint
        self._asked = self.transport.attendance(repeats, f"{self.options.name}.attendance")
        if self._asked is None:
            self.attendance = Attendance(self.size)
        self._start_if_known()

    def attend(self) -> Attendance:
        """Return who takes part in the open step; wait for it."""
        if self.attendance is None:
            if self._asked is None:
                raise CallOrderError(f"rank {self.rank}: expected begin before anything else of a step, got none")
            with self.ledger.timed("exchange"):
                self.attendance = self._asked.wait()
        return self.attendance

    def lay_out(self, gradients: Sequence[Gradient]) -> None:
        """Lay ``gradients`` out, once all ranks agree on them and, in a new world, on options and levels.

        Where a rank takes no part in the open step, ranks cannot agree: the layout then serves for this step alone.
        Where the size of a group was not given and the exchanges are timed, the size is timed as well.

        Raises:
            ConfigurationMismatch: naming the first difference, on every rank.
        """
        options = self.options
        layout = self._group(gradients, options.fusion_elements or usual_fusion(self.size))
        if self.attend().present < self.size:
            return
        if not self._joined:
            self.aggregator.connect(self.transport, join(options, self.transport, self.aggregator.position))
            self._joined = True
        chosen, plain = self.aggregator.exchange, rival(options, self.transport)
        agree_on_layout(options, layout, self.transport, chosen.remembered)
        if plain is not None and chosen.decision is None and gradients:
            decision = self.aggregator.choose_by_time(layout.group_elements, plain, self.groups.main_codec)
            self.is_plain = decision.choice == PLAIN
        if chosen.decision is not None and chosen.decision.fusion_elements is not None:
            layout = self._group(gradients, chosen.decision.fusion_elements)
        self.aggregator.lay_out(fingerprint({"gradients": layout.describe()}))
        self._agreed, self.is_reconfigured = True, False

    def _group(self, gradients: Sequence[Gradient], fusion_elements: int) -> FusionLayout:
        layout = FusionLayout.build(gradients, fusion_elements)
        self._laid_out = FusionGroups(layout, self.codecs, overwrites=self._overwrites)
        return layout

    def give_up_layout(self) -> None:
        """Expect another layout: the next step begins with ``lay_out``."""
        self._laid_out, self._agreed = None, False

    def fill(self, index: int, gradient: Any) -> None:
        """Give gradient ``index`` to its group, and start the group's exchange when it is complete; ``None``: zeros."""
        slot = self.groups.layout.slots[index]
        group = self.groups.fill(slot, gradient)
        if group is not None:
            self.start(slot.group, group.values(), group.codec)

    def start(self, group: int, values: Values, codec: Codec) -> None:
        """Start the exchange of a complete group, as soon as it is known who takes part."""
        self._ready.append((group, values, codec))
        self._start_if_known()

    def advance(self) -> None:
        """Move on what has arrived, without waiting: groups under way, then those that wait to know who takes part."""
        (self.aggregator if self._quantises else self._exact).advance()
        self._start_if_known()

    def _start_if_known(self) -> None:
        if self.attendance is None and self._asked is not None and self._asked.done():
            self.attend()
        if self.attendance is not None:
            self._start_ready()

    def flush(self) -> None:
        """Make sure that all groups handed over are on their way; wait for nothing but who takes part."""
        self.attend()
        self._start_ready()

    def take(self, index: int) -> Any:
        """Return reduced gradient ``index``, once ``result`` of its group has been called."""
        return self.groups.take(self.groups.layout.slots[index])

    def result(self, group: int, factor: float) -> Values:
        """Wait for ``group``, and return its values, overwritten with ``factor`` times the mean of all ranks'.

        On a device the sum may still be on its way there, and whether it was damaged shows at ``end_step``.
        """
        scale = factor / self.size
        if self._quantises:
            return self.aggregator.result(group, scale)
        return self._exact.finish(group, scale, collectives=1)

    def average(self, values: FloatArray, factor: float) -> None:
        """Overwrite float32 ``values`` of the host with ``factor`` times their mean over all ranks, exact; blocks.

        For what is too small to be worth a record; all ranks must agree on the number of values, and on the order.
        """
        floats, ranks = values.view(np.uint8), self.transport.gradients
        self.ledger.sent((self.size - 1) * len(floats))
        with self.ledger.timed("exchange"):
            GatheredAllreduce(ranks).start(floats, False, f"{self.options.name}.small").wait()
        values *= np.float32(factor)

    def end_step(self) -> None:
        """Close the step; at a scheduled one fit the levels of the next, together with all ranks."""
        present = self.size if self.attendance is None else self.attendance.present
        if self._quantises:
            if self._laid_out is not None and self._sampler is not None and self.aggregator.wants_samples:
                with self.aggregator.sampling():
                    for group in sampled_groups(self.groups, self._sampler()):
                        self.aggregator.sample(group.values(), group.codec)
            self.aggregator.end_step()
        else:
            repeated = self.attendance is not None and self.attendance.repeats
            self.aggregator.end_exact_step(counted=present == self.size and not repeated)
        if self._laid_out is not None:
            self.groups.clear()
            if not self._agreed:
                self._laid_out = None
        self._forget_step()

    @property
    def _quantises(self) -> bool:
        """Return whether records travel in the open step."""
        attendance = self.attendance
        whole = attendance is None or (attendance.present == self.size and not attendance.repeats)
        return whole and not self.is_plain and not self.exact_method and self.step >= self.options.start_at

    def _start_ready(self) -> None:
        ready, self._ready = self._ready, []
        ready.sort(key=lambda waiting: waiting[0] if self._in_order else 0)
        for group, values, codec in ready:
            if self._in_order and group > self._next:
                self._ready.append((group, values, codec))
                continue
            self._next += 1
            if self._quantises:
                self.aggregator.start(group, values, codec)
            else:
                self._exact.start(group, self._exact_exchange(values, self._exact_task(group, codec)), values)

    @property
    def plain(self) -> PlainAllreduce:
        """Return the host's all-reduce, or what stands for one where there is none."""
        return self.transport.plain or GatheredAllreduce(self.transport.gradients)

    @property
    def _exact_exchange(self) -> PlainExchange:
        return PlainExchange(self.plain)

    def _exact_task(self, group: int, codec: Codec) -> Task:
        return Task(
            codec=codec,
            communicator=self.transport.gradients,
            shots=(),
            observe=None,
            ledger=self.ledger,
            name=f"{self.options.name}.group{group}",
            seed=self.options.seed,
            step=self.step,
            group=group,
        )

    def metrics(self) -> dict[str, Any]:
        """Return what this rank counted so far, as plain values."""
        measured = self.aggregator.metrics()
        if self.exact_method or self.is_plain:
            measured["exchange"] = "none"
        if self.exact_method:
            measured["levels"] = []
        compressed = 0 if self._laid_out is None or self.is_plain else sum(self._laid_out.layout.group_elements)
        return {**measured, "compressed_elements": compressed}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs; call it between steps."""
        return self.aggregator.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken."""
        self.aggregator.load_state_dict(state)
