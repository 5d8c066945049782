"""Time the plain all-reduce and every exchange on this very link and codec, and let the leader decide for all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from alq_hvd.codec.base import Bytes, Values
from alq_hvd.communicator.base import Communicator, broadcast_bytes
from alq_hvd.exchange.base import ExchangeFunction, Task
from alq_hvd.exchange.break_even import HALF, PLAIN, Decision, Line, decide
from alq_hvd.exchange.in_flight import InFlight
from alq_hvd.exchange.plain import PlainAllreduce

SIZES = (2**14, 2**19)
"""Elements of the small and of the large message: 2 MB of float32, which 10 Mbit/s carry in seconds."""
PASSES = 3
"""Times that every way is measured; the first warms up."""
MORE_PASSES = 12
"""Further times where that was quick: on a fast link the ways are close, and the machine's noise is large."""
QUICK = 2.0
"""Seconds."""
_LEADER = 0


def decide_by_time(
    task: Task, exchanges: Mapping[str, ExchangeFunction], groups: Sequence[int], plain: PlainAllreduce
) -> Decision:
    """Return how gradients travel from now on, the same on every rank; blocks for seconds on a slow link.

    1. Every rank times the plain all-reduce in float32 and float16, and every exchange, each with a small and a large
       message; the ways take turns, a few times, and more times where the leader finds that this was quick. 2. The
       leader draws lines through its best times, predicts a step, decides. 3. Broadcast of the decision.

    All ranks must agree on: the task, but for its rank; the exchanges; the groups.

    Args:
        task: codec, communicator, levels; its name prefixes those of the collectives.
        exchanges: to choose from.
        groups: elements of each fusion group of a step.
        plain: the exact all-reduce of the same ranks.
    """
    rank = task.communicator.rank
    drawn = [np.random.default_rng(rank).standard_normal(elements).astype(np.float32) for elements in SIZES]
    values = [task.codec.arrays.copied(part) for part in drawn]
    values_as_bytes = [task.codec.arrays.as_bytes(part) for part in values]
    runs: dict[str, list[Callable[[], object]]] = {
        PLAIN: [_plain_run(plain, floats, False, f"{task.name}.fp32") for floats in values_as_bytes],
        HALF: [_plain_run(plain, floats, True, f"{task.name}.fp16") for floats in values_as_bytes],
    }
    for name, exchange in exchanges.items():
        runs[name] = [_exchanger(exchange, replace(task, name=f"{task.name}.{name}"), part) for part in values]
    times: dict[str, list[list[float]]] = {name: [] for name in runs}
    began = time.perf_counter()
    _measure(runs, times, PASSES)
    quick = time.perf_counter() - began < QUICK
    if _announce({"quick": quick}, task.communicator, f"{task.name}.quick")["quick"]:
        _measure(runs, times, MORE_PASSES)
    lines = {name: _line(passes[1:]) for name, passes in times.items()}
    decided = decide(lines, groups)
    return Decision(**_announce(decided.as_json(), task.communicator, f"{task.name}.decision"))


def _plain_run(plain: PlainAllreduce, floats: Bytes, half: bool, name: str) -> Callable[[], object]:
    return lambda: plain.start(floats, half, name).wait()


def _exchanger(exchange: ExchangeFunction, task: Task, values: Values) -> Callable[[], object]:
    """Return what averages ``values`` as a step does: on the host, by way of a fusion buffer."""

    def average(group: Values) -> None:
        InFlight(exchange(group, task), task.ledger).finish(1 / task.communicator.size, group)
        task.codec.raise_for_damage()  # which waits for a device: its time counts

    if not isinstance(values, np.ndarray):
        return partial(average, values)
    buffer = np.empty_like(values)

    def through_buffer() -> None:
        np.copyto(buffer, values)
        average(buffer)
        np.copyto(values, buffer)

    return through_buffer


def _measure(runs: Mapping[str, list[Callable[[], object]]], times: dict[str, list[list[float]]], passes: int) -> None:
    """Append to ``times`` the seconds of each size, ``passes`` times; neighbours in time are of different ways."""
    for _ in range(passes):
        for name, sizes in runs.items():
            seconds = []
            for run in sizes:
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
            times[name].append(seconds)


def _line(passes: Sequence[Sequence[float]]) -> Line:
    small, large = (min(of_size) for of_size in zip(*passes, strict=True))
    return Line.through((SIZES[0], small), (SIZES[1], large))


def _announce(own: dict[str, Any], communicator: Communicator, name: str) -> dict[str, Any]:
    """Return the leader's values on every rank."""
    told: dict[str, Any] = json.loads(broadcast_bytes(communicator, json.dumps(own).encode(), _LEADER, name))
    return told
