"""Run an exchange, or an aggregator with one, on loopback ranks, and see what it sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alq_hvd.codec.choice import choose_codec
from alq_hvd.codec.keys import StreamKey
from alq_hvd.communicator.base import Payload, Pending
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.engine.aggregator import Aggregator
from alq_hvd.engine.options import Options
from alq_hvd.engine.transport import PlainTransport
from alq_hvd.exchange.base import ExchangeFunction, Shot, Task
from alq_hvd.exchange.in_flight import InFlight
from alq_hvd.exchange.ledger import Ledger
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.policies import fixed


def gradient(rank: int, elements: int, *, step: int = 0, signal: float = 1.0) -> np.ndarray:
    """Return float32[elements]: ``signal`` times what all ranks share at this step, plus this rank's own noise."""
    shared = np.random.default_rng([step]).standard_normal(elements)
    own = np.random.default_rng([step, rank + 1]).standard_normal(elements)
    return (signal * shared + own).astype(np.float32)


@dataclass
class Watched:
    """Pass everything on to a communicator, and remember what was started: (collective, name, bytes for others)."""

    inner: Any
    started: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def rank(self) -> int:
        return int(self.inner.rank)

    @property
    def size(self) -> int:
        return int(self.inner.size)

    @property
    def world(self) -> object:
        return self.inner.world

    @property
    def tensors(self) -> Watched:
        return self

    def allgather(self, payload: Payload, name: str) -> Pending[list[Payload]]:
        self.started.append(("allgather", name, len(payload) * (self.size - 1)))
        return self.inner.allgather(payload, name)  # type: ignore[no-any-return]

    def alltoall(self, payloads: Sequence[Payload], name: str, *, alike: bool = False) -> Pending[list[Payload]]:
        to_others = sum(len(payload) for to, payload in enumerate(payloads) if to != self.rank)
        self.started.append(("alltoall", name, to_others))
        return self.inner.alltoall(payloads, name, alike=alike)  # type: ignore[no-any-return]

    def gather(self, payload: Payload, root: int, name: str) -> Pending[list[Payload]]:
        return self.inner.gather(payload, root, name)  # type: ignore[no-any-return]

    def broadcast(self, payload: Payload, root: int, name: str) -> Pending[Payload]:
        return self.inner.broadcast(payload, root, name)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Outcome:
    """Hold what one rank got: the sum, the bytes it sent, and what each shot quantised (first element, values)."""

    result: np.ndarray
    bytes_sent: int
    seen: dict[int, tuple[int, np.ndarray]]


def exchange(
    function: ExchangeFunction,
    gradients: Sequence[np.ndarray],
    *,
    bits: tuple[int, int] = (4, 4),
    bucket_size: int = 64,
    seed: int = 0,
) -> list[Outcome]:
    """Sum ``gradients``, one a rank, with equally spaced levels and the maximum norm."""
    configs = [QuantiserConfig(width, bucket_size, "linf") for width in bits]
    shots = tuple(Shot(config, fixed.uniform(config.bits)) for config in configs)

    def program(ranks: LoopbackCommunicator) -> Outcome:
        seen: dict[int, tuple[int, np.ndarray]] = {}
        watched, ledger = Watched(ranks), Ledger()

        def observe(shot: int, values: np.ndarray, key: StreamKey) -> None:
            seen[shot] = (key.first_element, values.copy())

        task = Task(choose_codec("auto"), watched, shots, observe, ledger, "test", seed=seed, step=3, group=2)
        result = gradients[ranks.rank].copy()  # an exchange overwrites its values, here with its result
        InFlight(function(result, task), ledger).finish(1.0, result)
        assert ledger.bytes_this_step == sum(count for _, _, count in watched.started)
        return Outcome(result, ledger.bytes_this_step, seen)

    return LoopbackWorld(len(gradients)).run(program)


def aggregate(
    ranks: LoopbackCommunicator, elements: int, *, steps: int = 1, signal: float = 1.0, **options: Any
) -> tuple[np.ndarray, Aggregator]:
    """Return the mean of the last of ``steps`` steps of one group over all ranks, and the aggregator."""
    aggregator = Aggregator(Options(**{"method": "qsgdinf", **options}), choose_codec("auto"))
    aggregator.connect(PlainTransport(ranks), ranks)
    for step in range(steps):
        aggregator.start(0, gradient(ranks.rank, elements, step=step, signal=signal))
        mean = aggregator.result(0, 1 / ranks.size)
        aggregator.end_step()
    return mean, aggregator
