"""How a compression joins its world: agree on the options, choose the way the levels travel, find what to beat."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from alq_hvd import backends
from alq_hvd.communicator import mpi
from alq_hvd.communicator.base import Communicator
from alq_hvd.communicator.horovod import HorovodCommunicator
from alq_hvd.communicator.stock import StockAllreduce, stock_allreduce
from alq_hvd.engine.handshake import MPI_LEVELS, agree_on_configuration
from alq_hvd.engine.layout import FusionLayout
from alq_hvd.engine.options import Options
from alq_hvd.errors import ConfigurationError
from alq_hvd.exchange.choice import AUTO
from alq_hvd.version import __version__

ASYNC_COMPLETION = "HOROVOD_ENABLE_ASYNC_COMPLETION"
"""Lets Horovod say that a collective is done before its data are there."""
_logger = logging.getLogger(__name__)


def join(options: Options, communicator: Communicator, position: Mapping[str, Any]) -> Communicator:
    """Agree with all ranks on ``options`` and on ``position``; return the communicator of statistics and levels.

    That is MPI, on a communicator of our own beside Horovod's, when Horovod runs on MPI and every rank has mpi4py; else
    ``communicator`` itself.

    Args:
        options: of this rank.
        communicator: of the gradients.
        position: completed steps and levels of this rank: a rank that joins a run must have loaded its state.

    Raises:
        ConfigurationMismatch: ranks were started with different options or versions, or hold different states.
    """
    shared = {**options.shared(), **position, "alq_hvd": __version__}
    over_horovod = isinstance(communicator, HorovodCommunicator)
    able = over_horovod and not mpi.unusable(communicator.size)
    agreed = agree_on_configuration(communicator, {**shared, MPI_LEVELS: able}, f"{options.name}.options")
    control: Communicator = communicator
    if agreed[MPI_LEVELS]:
        assert isinstance(communicator, HorovodCommunicator)
        control = mpi.MpiCommunicator.for_ranks(communicator.world_ranks, options.timeout)
    if communicator.rank == 0:
        way = "MPI" if agreed[MPI_LEVELS] else "the gradients' own communicator"
        _logger.info("%s at %s bits on %d ranks; levels travel over %s", options.method, options.bits,
                     communicator.size, way)  # fmt: skip
    return control


def agree_on_layout(options: Options, layout: FusionLayout, communicator: Communicator, remembered: Any) -> None:
    """Make sure that all ranks have the same gradients and ``remembered`` decision, and can do what they are asked to.

    Raises:
        ConfigurationMismatch: naming the first difference, on every rank.
        ConfigurationError: ``device_records`` is asked for, and no rank can hand Horovod records where they lie.
    """
    problem = _against_device_records(layout, communicator) if options.device_records else None
    own = {"gradients": layout.describe(), "break_even": remembered, "device_records": problem or "possible"}
    agree_on_configuration(communicator, own, f"{options.name}.gradients")
    if problem:
        raise ConfigurationError(f"device_records: {problem}, or go without")


def _against_device_records(layout: FusionLayout, communicator: Communicator) -> str | None:
    for slot in layout.slots:
        place = layout.group_places[slot.group]
        if place is None:
            return (
                f"expected every compressed gradient on a GPU, got {slot.name} encoded on the host: move the model to "
                "GPUs on every rank"
            )
        over_horovod = isinstance(communicator, HorovodCommunicator) and place.name.startswith("cuda")
        if over_horovod and not backends.horovod().nccl_built():
            return "expected a Horovod built with HOROVOD_GPU_OPERATIONS=NCCL, got one without NCCL: build it so"
        if over_horovod and os.environ.get(ASYNC_COMPLETION, "0").strip() not in ("", "0"):
            return (
                f"expected collectives that are done when their data are there, got {ASYNC_COMPLETION}="
                f"{os.environ[ASYNC_COMPLETION]}, where only the stream of Horovod's thread waits for them: unset it"
            )
    return None


def rival(options: Options, communicator: Communicator) -> StockAllreduce | None:
    """Return plain Horovod, which compression must beat, or ``None`` where nobody asks whether it does.

    Raises:
        ConfigurationError: ``break_even`` was asked for, and the ranks are not Horovod's.
    """
    asked = options.break_even
    if asked is None:
        asked = options.exchange == AUTO and isinstance(communicator, HorovodCommunicator)
    return stock_allreduce(communicator) if asked else None
