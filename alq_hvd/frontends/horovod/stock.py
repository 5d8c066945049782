"""Horovod's own all-reduce: what compression must beat, and what it falls back to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from alq_hvd import backends
from alq_hvd.codec.base import Bytes
from alq_hvd.communicator.base import Polled
from alq_hvd.communicator.horovod import HorovodCommunicator


@dataclass(frozen=True, slots=True)
class StockAllreduce:
    """Average floats as ``hvd.DistributedOptimizer`` does without this plugin; see ``PlainAllreduce``.

    Attributes:
        communicator: whose process set takes part.
    """

    communicator: HorovodCommunicator
    _hvd: Any = field(default_factory=backends.horovod, repr=False)

    def start(self, floats: Bytes, half: bool, name: str) -> Polled[None]:
        """Start to average the float32 numbers whose bytes ``floats`` are, in place; as float16 when ``half``."""
        torch, hvd = backends.torch(), self._hvd
        tensor = torch.as_tensor(floats).view(torch.float32)
        compression = hvd.Compression.fp16 if half else hvd.Compression.none
        compressed, context = compression.compress(tensor)
        process_set = self.communicator.process_set
        handle = hvd.allreduce_async_(compressed, name=name, op=hvd.Average, process_set=process_set)

        def collect(reduced: Any) -> None:
            if half:
                tensor.copy_(compression.decompress(reduced, context))

        return self.communicator.pending(handle, f"allreduce {name!r}", collect)
