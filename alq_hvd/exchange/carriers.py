"""Which way records take from their codec to other ranks."""

from __future__ import annotations

from alq_hvd.codec.arrays import Arrays
from alq_hvd.communicator.base import Communicator
from alq_hvd.errors import ConfigurationError
from alq_hvd.exchange.direct import DirectCarrier, TakesTensors
from alq_hvd.exchange.pieces import InPieces
from alq_hvd.exchange.staged import Carrier, StagedCarrier


def carrier(communicator: Communicator, arrays: Arrays, direct: bool) -> Carrier:
    """Return what carries the records of ``arrays`` over ``communicator``.

    Args:
        communicator: of the ranks.
        arrays: of the codec.
        direct: records of a device do not go by way of the host; the same on every rank.

    Raises:
        ConfigurationError: ``communicator`` carries bytes of the host only.
    """
    if arrays.staging is None:
        return InPieces(communicator, communicator.size)
    if not direct:
        return StagedCarrier(InPieces(communicator, communicator.size), arrays.staging, communicator.rank)
    if not isinstance(communicator, TakesTensors):
        raise ConfigurationError(
            f"device_records: expected a communicator that takes tensors, got {type(communicator).__name__}: go without"
        )
    return DirectCarrier(InPieces(communicator.tensors, communicator.size), arrays.staging)
