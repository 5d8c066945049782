"""The exchange in use: named, or chosen by bytes when ranks meet and by time once that is measured."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alq_hvd.accumulation.plan import plan_inside_node
from alq_hvd.accumulation.types import AUTO as PLANNED
from alq_hvd.accumulation.types import TYPES
from alq_hvd.codec.base import Values
from alq_hvd.communicator.nodes import Nodes
from alq_hvd.engine.layout import usual_fusion
from alq_hvd.engine.options import Options
from alq_hvd.engine.transport import Transport
from alq_hvd.errors import BackendUnavailable, CallOrderError, ConfigurationError
from alq_hvd.exchange.base import Exchange, ExchangeFunction, Task
from alq_hvd.exchange.break_even import PLAIN, Decision
from alq_hvd.exchange.kinds import AUTO, KINDS, ExchangeKind, choose
from alq_hvd.exchange.ledger import Ledger
from alq_hvd.exchange.plain import PlainAllreduce
from alq_hvd.exchange.residuals import Residuals
from alq_hvd.exchange.spread import spread
from alq_hvd.exchange.trial import decide_by_time, fuse_by_time

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Say how groups travel in the world that ``transport`` reaches."""

    transport: Transport
    kind: ExchangeKind
    function: ExchangeFunction


class ChosenExchange:
    """Sum fusion groups by the exchange that suits the present world.

    All ranks must agree on: the options.

    Args:
        options: name the exchange, or leave the choice.
        only: is taken, whatever the options name.

    Attributes:
        decision: of ``choose_by_time``; ``None`` before.
        remembered: the latest decision, of this world or of a loaded state, with the number of ranks that took it, as
            plain values.
    """

    def __init__(self, options: Options, only: ExchangeKind | None = None) -> None:
        self._options, self._only = options, only
        self.remembered: dict[str, Any] | None = None
        self.disconnect()

    def disconnect(self) -> None:
        """Leave the world; what is remembered stays."""
        self.decision: Decision | None = None
        self._chosen: _Chosen | None = None

    def connect(self, transport: Transport) -> None:
        """Take the exchange that the options name, or that sends the fewest bytes."""
        options, size = self._options, transport.gradients.size
        kind = self._only or choose(options.exchange, size, options.bits_of_shots, options.bucket_size)
        nodes = transport.nodes(options.ranks_per_node, self._nodes_name) if kind.needs_nodes else None
        self._chosen = _Chosen(transport, kind, self._made(kind, transport, nodes))

    @property
    def _here(self) -> _Chosen:
        if self._chosen is None:
            raise CallOrderError("expected an exchange to be chosen before gradients travel, got none: call connect")
        return self._chosen

    @property
    def name(self) -> str:
        """Return the name of the exchange; empty before ``connect``."""
        return "" if self._chosen is None else self._chosen.kind.name

    @property
    def shots(self) -> int:
        """Return how many times gradients are quantised on their way."""
        return 1 if self._chosen is None else self._chosen.kind.shots

    @property
    def collectives(self) -> int:
        """Return how many collectives of a group follow each other."""
        return 1 if self._chosen is None else self._chosen.kind.collectives

    def __call__(self, values: Values, task: Task) -> Exchange:
        """Start to sum ``values`` over the ranks; see ``ExchangeFunction``."""
        return self._here.function(values, task)

    def choose_by_time(self, task: Task, groups: Sequence[int], plain: PlainAllreduce) -> Decision:
        """Time the plain all-reduce and the exchanges that the options allow, and use what the leader decides.

        Then, unless the options say how many elements travel together, find that out by time, too.

        A decision that as many ranks remember is taken again: a resumed run is the same run.

        All ranks must agree on: the task, but for its rank; groups; ``remembered``. See ``exchange.trial``.

        Args:
            task: codec and levels to measure with.
            groups: elements of each fusion group of a step, as they are without a measurement.
            plain: the host's all-reduce.
        """
        exchanges, size, known = self._candidates(), task.communicator.size, self.remembered
        if known is not None and known["ranks"] == size and known["choice"] in (PLAIN, *exchanges):
            decision = Decision(known["choice"], known["seconds"], known.get("fusion_elements"))
        else:
            residuals = None if task.residuals is None else Residuals()
            aside = replace(task, ledger=Ledger(), observe=None, residuals=residuals)
            decision = decide_by_time(aside, exchanges, groups, plain)
            if decision.choice != PLAIN and self._options.fusion_elements is None:
                chosen, predicted = exchanges[decision.choice], decision.seconds[decision.choice]
                fused = fuse_by_time(aside, chosen, sum(groups), usual_fusion(size), predicted)
                decision = replace(decision, fusion_elements=fused)
        self.decision, self.remembered = decision, {"ranks": size, **decision.as_json()}
        if decision.choice != PLAIN:
            kind, function = KINDS[decision.choice], exchanges[decision.choice]
            self._chosen = _Chosen(self._here.transport, kind, function)
        if task.communicator.rank == 0:
            # A user who asked for compression and does not get it shall see so without asking for logs.
            level = logging.WARNING if decision.choice == PLAIN else logging.INFO
            _logger.log(level, "break-even on %d ranks: %s", size, decision)
        return decision

    def _candidates(self) -> Mapping[str, ExchangeFunction]:
        """Return the exchanges that the options allow and this world can do, the same on every rank."""
        options, here = self._options, self._here
        if options.exchange != AUTO:
            return {self.name: here.function}
        nodes = _useful_nodes(here.transport, options.ranks_per_node, self._nodes_name)
        possible = [kind for kind in KINDS.values() if nodes is not None or not kind.needs_nodes]
        return {kind.name: self._made(kind, here.transport, nodes) for kind in possible}

    @property
    def _nodes_name(self) -> str:
        return f"{self._options.name}.nodes"

    def _made(self, kind: ExchangeKind, transport: Transport, nodes: Nodes | None) -> ExchangeFunction:
        """Return what sums a group, inside nodes in the type that the options name or that suits them."""
        if kind.function is not None:
            return kind.function if kind.shots == 1 else spread(kind.function)
        if kind.make is None or nodes is None:
            raise ConfigurationError(f"exchange: {kind.name} needs to know the nodes, which are unknown here")
        options = self._options
        # What a node's sum loses to rounding, no residual remembers: error feedback wants it exact.
        asked = "fp32" if options.error_feedback and options.accumulator == PLANNED else options.accumulator
        plan = plan_inside_node(nodes.inside.size, options.bits_of_shots[0], options.bucket_size, asked)
        if transport.gradients.rank == 0:
            level = logging.WARNING if plan.problem else logging.INFO
            _logger.log(level, "sums of %d ranks inside a node are kept in %s: %s", nodes.inside.size, plan.dtype,
                        plan.problem or plan.reason)  # fmt: skip
        return spread(kind.make(nodes, TYPES[plan.dtype]))


def _useful_nodes(transport: Transport, ranks_per_node: int | None, name: str) -> Nodes | None:
    """Return this rank's place if ``hierarchical`` is possible and more than a flat exchange, the same on every rank.

    ``None``: one rank a node, one node, nodes that differ, or a host that cannot reach them apart.
    """
    try:
        nodes = transport.nodes(ranks_per_node, name)
    except (ConfigurationError, BackendUnavailable):
        return None
    return nodes if nodes.inside.size > 1 and nodes.across.size > 1 else None
