"""Elastic Horovod: carry a compression from world to world, beside model and optimizer.

``hvd.elastic.TorchState(model=model, optimizer=optimizer, compression=compression)`` is all a program needs: making an
``alq_hvd.Compression`` has told Horovod, through its registry of handlers, how such a value is saved, restored and
brought to ranks that are new. docs/guides/elastic.md lists what is carried and what is chosen again.
"""

from __future__ import annotations

import copy

from alq_hvd import backends
from alq_hvd.checkpoint.plain import pack, unpack
from alq_hvd.communicator.base import broadcast_bytes
from alq_hvd.frontends.horovod.compressor import QuantisedCompressor

_LEADER = 0
_OWN = ("bytes_total", "residuals")
"""What a rank has counted for itself, or owes, and keeps when it takes over the leader's state."""


class CompressionHandler:
    """Do for a compression what Horovod's own handlers do for a model; the methods' names are Horovod's.

    Args:
        value: the compression that is also given to the optimizer.
    """

    def __init__(self, value: QuantisedCompressor) -> None:
        self.set_value(value)

    def set_value(self, value: QuantisedCompressor) -> None:
        """Handle ``value`` from now on."""
        self.value = value
        self.save()

    def save(self) -> None:
        """Keep the state in memory, as ``state.commit()`` does, between two steps.

        Raises:
            CallOrderError: in the middle of a step.
        """
        self._saved = copy.deepcopy(self.value.state_dict())

    def restore(self) -> None:
        """Go back to what was kept, after a step that no world has finished: what was under way is forgotten."""
        self.value.reset()
        self.value.load_state_dict(copy.deepcopy(self._saved))

    def sync(self) -> None:
        """Take over the leader's levels, their history and the step; every rank of the new world must call it.

        The leader is rank 0 of the compression's process set; Horovod gives that to a rank of the old world, so that a
        new rank gets what the run has learned.
        """
        self.value.reset()
        own = self.value.state_dict()
        name, kept = f"{self.value.options.name}.elastic", {part: own.pop(part) for part in _OWN}
        state = unpack(broadcast_bytes(self.value.communicator, pack(own, name), _LEADER, name), name)
        for shot in (state, *state["later_shots"]):
            shot["is_measured"] = False  # the leader's variance tells of the leader's gradients
        self.value.load_state_dict({**state, **kept})
        self.save()


def register() -> None:
    """Tell ``hvd.elastic.TorchState`` how a compression is handled; again does no harm, nor where there is none."""
    if not backends.available("horovod.torch"):
        return
    states = backends.require("horovod.torch.elastic.state")
    entry = (QuantisedCompressor, CompressionHandler)
    registry = states.get_handler_registry()
    if entry not in registry:
        states.set_handler_registry([*registry, entry])
