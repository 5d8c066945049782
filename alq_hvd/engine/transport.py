"""What a front end supplies: how this rank reaches the others, and what its host can do beside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from alq_hvd.communicator.base import Communicator, Pending
from alq_hvd.communicator.nodes import Nodes, OnNodes
from alq_hvd.errors import ConfigurationError
from alq_hvd.exchange.plain import PlainAllreduce

Place = object
"""Where gradients are encoded: a device of the codec, or ``None`` for the host."""


@dataclass(frozen=True, slots=True)
class Attendance:
    """Tell who takes part in a step; the same on every rank that does.

    Attributes:
        present: how many ranks hand over gradients; the others have left the loop early, as with ``hvd.join()``.
        leads: whether rank 0 is one of them.
        repeats: whether each of them hands over a gradient that has not changed since it was reduced.
    """

    present: int
    leads: bool = True
    repeats: bool = False


class Transport(Protocol):
    """Reach the other ranks by the means of one host. It is made once: its communicator knows of new worlds."""

    @property
    def gradients(self) -> Communicator:
        """Return what carries the records."""
        ...

    def control_problem(self) -> str:
        """Return why this rank has no channel of its own for statistics and levels; empty when it has one."""
        ...

    def control(self) -> Communicator:
        """Open that channel; every rank calls it, and only when none has a problem."""
        ...

    def nodes(self, ranks_per_node: int | None, name: str) -> Nodes:
        """Return this rank's place in a grid of nodes; every rank must call it, with the same arguments.

        Raises:
            ConfigurationError: nodes are not alike, or are unknown.
            BackendUnavailable: the host was not started so that nodes can be used.
        """
        ...

    @property
    def plain(self) -> PlainAllreduce | None:
        """Return the host's exact all-reduce; ``None`` where there is none."""
        ...

    def attendance(self, repeats: bool, name: str) -> Pending[Attendance] | None:
        """Ask who takes part in a step, without waiting; ``None`` where every rank always does.

        Args:
            repeats: what this rank says of its gradient; see ``Attendance``.
            name: of the collective.
        """
        ...

    def device_records_problem(self, place: Place) -> str:
        """Return why records at ``place`` cannot be handed over where they lie; empty when they can."""
        ...


@dataclass(frozen=True, slots=True)
class PlainTransport:
    """Reach the ranks of a communicator, and nothing else: simulated worlds, and programs of one's own.

    Attributes:
        gradients: carries records, statistics and levels.
    """

    gradients: Communicator

    @property
    def plain(self) -> PlainAllreduce | None:
        """Return None: a simulated world has nothing of the kind."""
        return None

    def control_problem(self) -> str:
        """Return that levels travel beside the records."""
        return "one communicator carries everything"

    def control(self) -> Communicator:
        """Return the one communicator."""
        return self.gradients

    def nodes(self, ranks_per_node: int | None, name: str) -> Nodes:
        """Return what the communicator tells of itself; see ``OnNodes``."""
        if isinstance(self.gradients, OnNodes):
            return self.gradients.nodes
        raise ConfigurationError(
            f"exchange: hierarchical needs to know nodes, which {type(self.gradients).__name__} does not tell"
        )

    def attendance(self, repeats: bool, name: str) -> None:
        """Return None: no rank may leave early."""

    def device_records_problem(self, place: Place) -> str:
        """Return nothing: whether the communicator takes tensors shows when it is asked to."""
        return ""


TransportMaker = Callable[[], Transport]
"""Make the transport when it is first needed: the host may not have been started before."""
