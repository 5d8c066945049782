"""Time plain Horovod and every exchange on this very link and codec, and let the leader decide for all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from alq_hvd.codec.base import Values
from alq_hvd.communicator.base import Communicator, Payload, as_payload
from alq_hvd.exchange.base import ExchangeFunction, Task
from alq_hvd.exchange.in_flight import InFlight
from alq_hvd.planning.break_even import HALF, PLAIN, Decision, Line, decide

SIZES = (2**14, 2**19)
"""Elements of the small and of the large message: 2 MB of float32, which 10 Mbit/s carry in seconds."""
REPEATS = 3
_LEADER = 0
_DECISION_BYTES = 1024


class Stock(Protocol):
    """Be Horovod's own all-reduce."""

    def __call__(self, values: Values, half: bool, name: str) -> None:
        """Average ``values``, float32[elements], over the ranks, as float16 when ``half``; block until done."""
        ...


def settle(task: Task, exchanges: Mapping[str, ExchangeFunction], groups: Sequence[int], stock: Stock) -> Decision:
    """Return how gradients travel from now on, the same on every rank; blocks for seconds on a slow link.

    1. Every rank times plain Horovod in float32 and float16, then every exchange, each with a small and a large
       message, ``REPEATS`` times. 2. The leader draws lines through its best times, predicts a step, decides.
    3. Broadcast of the decision.

    All ranks must agree on: the task, but for its rank; the exchanges; the groups.

    Args:
        task: codec, communicator, levels; its name prefixes those of the collectives.
        exchanges: to choose from.
        groups: elements of each fusion group of a step.
        stock: plain Horovod on the same ranks.
    """
    contenders: dict[str, Callable[[Values], object]] = {
        PLAIN: lambda values: stock(values, False, f"{task.name}.fp32"),
        HALF: lambda values: stock(values, True, f"{task.name}.fp16"),
    }
    for name, exchange in exchanges.items():
        contenders[name] = _exchanger(exchange, replace(task, name=f"{task.name}.{name}"))
    lines = {name: _line(run, task) for name, run in contenders.items()}
    return _announce(decide(lines, groups), task.communicator, f"{task.name}.decision")


def _exchanger(exchange: ExchangeFunction, task: Task) -> Callable[[Values], object]:
    def run(values: Values) -> None:
        InFlight(exchange(values, task), task.ledger).finish(1.0, values)
        task.codec.raise_for_damage()  # which waits for a device: its time counts

    return run


def _line(run: Callable[[Values], object], task: Task) -> Line:
    measured = []
    for elements in SIZES:
        drawn = np.random.default_rng(task.communicator.rank).standard_normal(elements).astype(np.float32)
        values = task.codec.arrays.copied(drawn)
        best = float("inf")
        for _ in range(REPEATS):
            start = time.perf_counter()
            run(values)
            best = min(best, time.perf_counter() - start)
        measured.append((elements, best))
    return Line.through(measured[0], measured[1])


def _announce(own: Decision, communicator: Communicator, name: str) -> Decision:
    raw: Payload = np.zeros(_DECISION_BYTES, dtype=np.uint8)
    text = as_payload(json.dumps(own.as_json()).encode())
    raw[: text.size] = text
    return Decision(**json.loads(communicator.broadcast(raw, _LEADER, name).wait().tobytes().rstrip(b"\0")))
