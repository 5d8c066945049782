"""Ranks that end wait for each other, since Horovod's shutdown of one cuts off what others still exchange.

The last collective of a hierarchical step is one of a node, so that a node can be through, and its ranks at the end of
their program, while another node still exchanges. Whoever calls ``hvd.shutdown()`` waits for the others before it.
"""

from __future__ import annotations

import atexit
import contextlib
import sys
from dataclasses import replace

import numpy as np

from alq_hvd import backends
from alq_hvd.communicator import leaving
from alq_hvd.communicator.horovod import HorovodCommunicator


def wait_at_exit(communicator: HorovodCommunicator, name: str) -> None:
    """See to it that this process exits when every rank does, or ``leaving.GRACE`` seconds later.

    Args:
        communicator: all ranks; each calls this in a world whose nodes exchange apart from each other.
        name: of the collective; the same on every rank.
    """
    last = replace(communicator, timeout=leaving.GRACE)
    atexit.register(_wait, last, last.world, f"{name}.leaving")  # after Horovod's own: runs before its shutdown


def _wait(communicator: HorovodCommunicator, world: object, name: str) -> None:
    failed = hasattr(sys, "last_value")  # Python has shown an error that ends the program: no rank may wait for it
    if failed or not backends.horovod().is_initialized() or communicator.world is not world:
        return
    with contextlib.suppress(Exception):  # another rank ended in its own way: so does this one
        communicator.allgather(np.zeros(1, dtype=np.uint8), name).wait()
