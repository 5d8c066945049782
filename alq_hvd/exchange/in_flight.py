"""Fusion groups on their way over the ranks: moved on when something arrived, finished in an order that cannot hang."""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Any

from alq_hvd.codec.base import Values
from alq_hvd.communicator.base import Pending
from alq_hvd.exchange.base import Decode, Exchange
from alq_hvd.exchange.ledger import Ledger
from alq_hvd.exchange.staged import StagedPending


class InFlight:
    """Drive one exchange: forward when its collective has arrived, or to the end."""

    def __init__(self, exchange: Exchange, ledger: Ledger) -> None:
        self._exchange = exchange
        self._ledger = ledger
        self._pending: Pending[Any] | None = None
        self._decode: Decode | None = None
        self.arrived = -1  # collectives
        self._resume(None)

    def step(self) -> bool:
        """Move past one collective if it has arrived, without waiting; return whether it had."""
        if self._pending is None or not self._pending.done():
            return False
        self._resume(self._pending.wait())
        return True

    @property
    def travels(self) -> bool:
        """Return whether a collective is under way."""
        return self._pending is not None

    @property
    def leaves(self) -> bool:
        """Return whether records are still on their way from the device; asking starts their collective if not."""
        pending = self._pending
        if not isinstance(pending, StagedPending) or pending.started is not None:
            return False
        pending.done()
        return pending.started is None

    def reach(self, collectives: int) -> None:
        """Wait until this many collectives have arrived, so that the next one is on its way."""
        while self._pending is not None and self.arrived < collectives:
            with self._ledger.timed("exchange"):
                arrived = self._pending.wait()
            self._resume(arrived)

    def start(self) -> None:
        """Make sure that the pending collective has started on this rank, and is not still leaving the device."""
        if isinstance(self._pending, StagedPending):
            with self._ledger.timed("exchange"):
                self._pending.start()

    def finish(self, scale: float, out: Values) -> None:
        """Wait for what is missing and write ``scale`` times the sum to ``out``, which may be the exchange's values."""
        self.reach(sys.maxsize)
        assert self._decode is not None
        with self._ledger.timed("decode"):
            self._decode(scale, out)

    def _resume(self, arrived: Any) -> None:
        self.arrived += 1
        try:
            self._pending = self._exchange.send(arrived)
        except StopIteration as stop:
            self._pending, self._decode = None, stop.value


@dataclass(frozen=True, slots=True)
class _Group:
    """Keep an exchange with the values that its result overwrites."""

    exchange: InFlight
    values: Values


class GroupsInFlight:
    """Drive the exchanges of all fusion groups of a step.

    Collectives complete much in the order in which they were started, so that only the oldest of each stage is asked:
    the work of a step grows with the number of groups, not with a power of it. Where groups are started in their own
    order on every rank, the collectives of each stage start in that order, too: torch.distributed needs it.

    Args:
        ledger: takes the seconds.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._groups: dict[int, _Group] = {}
        self._stages: defaultdict[int, deque[InFlight]] = defaultdict(deque)  # by collectives that have arrived
        self._leaving: deque[InFlight] = deque()  # whose records may still be on a device
        self._settled = False

    def start(self, group: int, exchange: Exchange, values: Values) -> None:
        """Start the exchange of ``group``; its result will be written over ``values``."""
        self._groups[group] = _Group(InFlight(exchange, self._ledger), values)
        self._stages[0].append(self._groups[group].exchange)
        self._leaving.append(self._groups[group].exchange)
        self._settled = False

    def advance(self) -> None:
        """Move groups forward whose records have left their device, or whose collective arrived, without waiting."""
        for stage in range(len(self._stages)):
            waiting = self._stages[stage]
            # What `_settle` has moved on still stands in the queue of the stage in which it found it.
            while waiting and (waiting[0].arrived > stage or waiting[0].step()):
                moved = waiting.popleft()
                if moved.travels:
                    self._stages[moved.arrived].append(moved)
                    self._leaving.append(moved)
        while self._leaving and not self._leaving[0].leaves:
            self._leaving.popleft()

    def finish(self, group: int, scale: float, collectives: int) -> Values:
        """Wait for ``group``, and return its values, where ``scale`` times the sum now is.

        Before, every group is brought to its last collective of ``collectives``, in an order that all ranks share.
        Ranks ask for results in different orders. A rank that waited for one group's sums while another rank waits for
        another group's would wait forever: neither would start what the other needs.
        """
        if not self._settled:
            self._settle(collectives)
        finished = self._groups.pop(group)
        finished.exchange.finish(scale, finished.values)
        return finished.values

    def _settle(self, collectives: int) -> None:
        ordered = [self._groups[each].exchange for each in sorted(self._groups)]
        for arrived in range(collectives):
            for exchange in ordered:
                exchange.reach(arrived)
                self.advance()
            for exchange in ordered:
                exchange.start()
        self._stages.clear()
        self._leaving.clear()
        self._settled = True
