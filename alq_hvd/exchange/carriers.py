"""Which way records take from their codec to other ranks."""

from __future__ import annotations

from typing import cast

from alq_hvd.codec.arrays import Arrays, B, Record, V
from alq_hvd.communicator.base import Communicator
from alq_hvd.errors import ConfigurationError
from alq_hvd.exchange.direct import DirectCarrier, TakesTensors
from alq_hvd.exchange.pieces import InPieces
from alq_hvd.exchange.staged import Carrier, StagedCarrier


def carrier(communicator: Communicator, arrays: Arrays[V, B], direct: bool) -> Carrier[B]:
    """Return what carries the records of ``arrays`` over ``communicator``.

    Args:
        communicator: of the ranks.
        arrays: of the codec.
        direct: records of a device do not go by way of the host; the same on every rank.

    Raises:
        ConfigurationError: ``communicator`` carries bytes of the host only.
    """
    of_host: Carrier[Record] = InPieces(communicator, communicator.size)
    if arrays.staging is None:
        return cast("Carrier[B]", of_host)  # B is Record where nothing has to be brought to the host
    if not direct:
        return StagedCarrier(of_host, arrays.staging, communicator.rank)
    if not isinstance(communicator, TakesTensors):
        raise ConfigurationError(
            f"device_records: expected a communicator that takes tensors, got {type(communicator).__name__}: go without"
        )
    return DirectCarrier(InPieces(communicator.tensors, communicator.size), arrays.staging)
