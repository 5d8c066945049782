"""Horovod's own all-reduce, to compare with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from alq_hvd import backends
from alq_hvd.communicator.base import Communicator
from alq_hvd.communicator.horovod import HorovodCommunicator
from alq_hvd.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class StockAllreduce:
    """Average floats as ``hvd.DistributedOptimizer`` does without this plugin, in the communicator's process set."""

    communicator: HorovodCommunicator
    _hvd: Any = field(default_factory=backends.horovod, repr=False)

    def __call__(self, values: Any, half: bool, name: str) -> None:
        """Average ``values``, float32[elements] of NumPy or torch, in place; when ``half``, in a copy of type float16.

        Blocks until done.
        """
        compression = self._hvd.Compression.fp16 if half else self._hvd.Compression.none
        compressed, context = compression.compress(backends.torch().as_tensor(values))
        process_set = self.communicator.process_set
        handle = self._hvd.allreduce_async_(compressed, name=name, op=self._hvd.Average, process_set=process_set)
        compression.decompress(self._hvd.synchronize(handle), context)


def stock_allreduce(communicator: Communicator) -> StockAllreduce:
    """Return Horovod's all-reduce over the ranks of ``communicator``.

    Raises:
        ConfigurationError: when they are not Horovod's.
    """
    if not isinstance(communicator, HorovodCommunicator):
        raise ConfigurationError(
            f"break_even: expected ranks of Horovod to compare with its all-reduce, got {type(communicator).__name__}: "
            "leave break_even out in simulated worlds"
        )
    return StockAllreduce(communicator)
