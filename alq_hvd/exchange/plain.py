"""An exact all-reduce in place of an exchange of records: what compression must beat, and what it falls back to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from alq_hvd import backends
from alq_hvd.codec.base import B, Bytes, Record, V
from alq_hvd.communicator.base import DEFAULT_TIMEOUT, Communicator, Pending, Polled
from alq_hvd.exchange.base import Exchange, Task
from alq_hvd.exchange.ledger import ring_bytes


class PlainAllreduce(Protocol):
    """Average floats over the ranks exactly, as the host does without this package."""

    def start(self, floats: Bytes, half: bool, name: str) -> Pending[None]:
        """Start to average float32 numbers in place.

        Args:
            floats: uint8[4 * elements], their bytes, on the host or on a device; must stay until the result is there.
            half: travel as float16.
            name: of the collective.
        """
        ...


@dataclass(frozen=True, slots=True)
class GatheredAllreduce:
    """Average by giving everything to everyone, where a host has no all-reduce; see ``PlainAllreduce``.

    Attributes:
        communicator: of the ranks; carries bytes of the host.
    """

    communicator: Communicator

    def start(self, floats: Bytes, half: bool, name: str) -> Polled[None]:
        """Start to average; every rank adds in rank order, so that all get the same bits. A device is waited for."""
        at_home: Record = floats if isinstance(floats, np.ndarray) else backends.torch().as_tensor(floats).cpu().numpy()
        own = at_home.view(np.float32)
        sent = own.astype(np.float16).view(np.uint8) if half else at_home.copy()
        pending = self.communicator.allgather(sent, name)

        def collect() -> None:
            total = np.zeros(own.size, dtype=np.float32)
            for part in pending.wait():
                total += part.view(np.float16 if half else np.float32)
            np.multiply(total, np.float32(1 / self.communicator.size), out=own)
            if at_home is not floats:
                torch = backends.torch()
                torch.as_tensor(floats).copy_(torch.from_numpy(at_home))

        return Polled(pending.done, collect, f"rank {self.communicator.rank}: allreduce {name!r}", DEFAULT_TIMEOUT)


@dataclass(frozen=True, slots=True)
class PlainExchange:
    """Sum a fusion group exactly; see ``ExchangeFunction``.

    Ranks that take no part count as zeros where the host's all-reduce allows that, as after ``hvd.join()``.
    """

    plain: PlainAllreduce

    def __call__(self, values: V, task: Task[V, B]) -> Exchange[V]:
        """Average ``values``; the sum is that times the number of ranks.

        All ranks that take part must agree on: the task, but for its rank; the number of values.
        """
        arrays, size = task.codec.arrays, task.communicator.size
        floats = arrays.as_bytes(values)
        task.ledger.sent(ring_bytes(size, len(floats)))
        yield self.plain.start(floats, False, f"{task.name}.plain")

        def decode(scale: float, out: V) -> None:
            arrays.scaled(floats, scale * size, out)

        return decode
