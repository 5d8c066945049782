"""How a session joins its world: agree on the options, choose the way the levels travel, agree on the groups."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from alq_hvd.communicator.base import Communicator
from alq_hvd.engine.handshake import OWN_CHANNEL, agree_on_configuration
from alq_hvd.engine.layout import FusionLayout
from alq_hvd.engine.options import Options
from alq_hvd.engine.transport import Transport
from alq_hvd.errors import ConfigurationError
from alq_hvd.exchange.kinds import AUTO
from alq_hvd.exchange.plain import PlainAllreduce
from alq_hvd.version import __version__

_logger = logging.getLogger(__name__)


def join(options: Options, transport: Transport, position: Mapping[str, Any]) -> Communicator:
    """Agree with all ranks on ``options`` and on ``position``; return the communicator of statistics and levels.

    That is a channel of its own, where every rank has one, as MPI beside Horovod; else the records' communicator.

    Args:
        options: of this rank.
        transport: to the other ranks.
        position: completed steps and levels of this rank: a rank that joins a run must have loaded its state.

    Raises:
        ConfigurationMismatch: ranks were started with different options or versions, or hold different states.
    """
    communicator, problem = transport.gradients, transport.control_problem()
    shared = {**options.shared(), **position, "alq_hvd": __version__}
    agreed = agree_on_configuration(communicator, {**shared, OWN_CHANNEL: not problem}, f"{options.name}.options")
    control = transport.control() if agreed[OWN_CHANNEL] else communicator
    if communicator.rank == 0:
        way = type(control).__name__ if agreed[OWN_CHANNEL] else f"the records' own communicator ({problem})"
        _logger.info("%s at %s bits on %d ranks; levels travel over %s", options.method_name, options.bits,
                     communicator.size, way)  # fmt: skip
    return control


def agree_on_layout(options: Options, layout: FusionLayout, transport: Transport, remembered: Any) -> None:
    """Make sure that all ranks have the same gradients and ``remembered`` decision, and can do what they are asked to.

    Raises:
        ConfigurationMismatch: naming the first difference, on every rank.
        ConfigurationError: ``device_records`` is asked for, and no rank can hand over records where they lie.
    """
    problem = _against_device_records(layout, transport) if options.device_records else ""
    own = {"gradients": layout.describe(), "break_even": remembered, "device_records": problem or "possible"}
    agree_on_configuration(transport.gradients, own, f"{options.name}.gradients")
    if problem:
        raise ConfigurationError(f"device_records: {problem}, or go without")


def _against_device_records(layout: FusionLayout, transport: Transport) -> str:
    for slot in layout.slots:
        place = layout.group_places[slot.group]
        if place is None:
            return (
                f"expected every compressed gradient on a GPU, got {slot.name} encoded on the host: move the model to "
                "GPUs on every rank"
            )
        problem = transport.device_records_problem(place)
        if problem:
            return problem
    return ""


def rival(options: Options, transport: Transport) -> PlainAllreduce | None:
    """Return the host's all-reduce, which compression must beat, or ``None`` where they are not compared.

    Raises:
        ConfigurationError: ``break_even`` was asked for, and there is nothing to compare with.
    """
    plain, asked = transport.plain, options.break_even
    if asked and plain is None:
        raise ConfigurationError(
            f"break_even: expected ranks with an all-reduce to compare with, got {type(transport).__name__}: leave "
            "break_even out in simulated worlds"
        )
    if asked is None:
        asked = options.exchange == AUTO
    return plain if asked else None
