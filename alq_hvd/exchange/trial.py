"""Time the plain all-reduce and every exchange on this very link and codec, and let the leader decide for all."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alq_hvd.codec.base import Bytes
from alq_hvd.communicator.base import Communicator, broadcast_bytes
from alq_hvd.exchange.base import ExchangeFunction, Task
from alq_hvd.exchange.break_even import HALF, PLAIN, Decision, Line, decide
from alq_hvd.exchange.in_flight import GroupsInFlight
from alq_hvd.exchange.kinds import MOST_COLLECTIVES
from alq_hvd.exchange.plain import PlainAllreduce

SIZES = (2**14, 2**19)
"""Elements of the small and of the large message: 2 MB of float32, which 10 Mbit/s carry in seconds."""
TIMED_ELEMENTS, TIMED_ELEMENTS_OF_SLOW_LINKS = 2**21, 2**19
"""Elements of the part of a step that is timed in several fusion groups."""
SLOW = 0.5
"""Seconds that the larger part may take."""
NOTICEABLE = 0.05
"""Share of its time by which another size of groups must be faster."""
LEAST_FUSED, MOST_FUSED = 2**17, 2**22
PASSES = 3
"""Times that every way is measured; the first warms up."""
MORE_PASSES = 12
"""Further times where that was quick: on a fast link the ways are close, and the machine's noise is large."""
QUICK = 2.0
"""Seconds."""
_LEADER = 0
_Run = Callable[[], object]


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
    drawn = _Drawn(task)
    floats = [[task.codec.arrays.as_bytes(drawn.values(elements)) for elements in SIZES] for _ in (PLAIN, HALF)]
    runs: dict[str, list[_Run]] = {
        PLAIN: [_plain_run(plain, each, False, f"{task.name}.fp32") for each in floats[0]],
        HALF: [_plain_run(plain, each, True, f"{task.name}.fp16") for each in floats[1]],
    }
    for name, exchange in exchanges.items():
        named = replace(task, name=f"{task.name}.{name}")
        runs[name] = [_exchange_run(exchange, named, [drawn.values(elements)]) for elements in SIZES]
    lines = {name: Line.through(*zip(SIZES, best, strict=True)) for name, best in _best_times(runs, task).items()}
    decided = decide(lines, groups)
    return Decision(**_announce(decided.as_json(), task.communicator, f"{task.name}.decision"))


def fuse_by_time(task: Task, exchange: ExchangeFunction, elements: int, usual: int, seconds: float) -> int:
    """Return how many elements a fusion group should have, the same on every rank; blocks as ``decide_by_time`` does.

    Many groups overlap one's codec with another's way, and each costs the time in which ranks find together: how much
    of that another group's way hides, no formula tells. So a part of a step is timed in one group, two, four and eight,
    and the leader decides. The best size grows with the root of the step: the work that overlaps with nothing grows
    with it, and the number of groups falls.

    All ranks must agree on: the task, but for its rank; the exchange; the other arguments.

    Args:
        task: see ``decide_by_time``.
        exchange: in use.
        elements: of a step.
        usual: size of a group, which is kept unless another one is faster by more than ``NOTICEABLE``.
        seconds: predicted for a step.
    """
    slow = seconds / elements * TIMED_ELEMENTS > SLOW
    timed = TIMED_ELEMENTS_OF_SLOW_LINKS if slow else TIMED_ELEMENTS
    values, scale = _Drawn(task).values(timed), (elements / timed) ** 0.5
    sizes = {timed // count: count for count in (1, 2, 4, 8)}
    runs = {
        str(size): [
            _exchange_run(
                exchange,
                replace(task, name=f"{task.name}.fused{count}"),
                [values[start : start + size] for start in range(0, timed, size)],
            )
        ]
        for size, count in sizes.items()
    }
    best = {int(size): times[0] for size, times in _best_times(runs, task).items()}
    like_usual = min(sizes, key=lambda size: abs(math.log2(size * scale / usual)))
    fastest = min(best, key=lambda size: best[size])
    chosen = usual
    if best[fastest] < (1 - NOTICEABLE) * best[like_usual]:
        chosen = min(max(2 ** round(math.log2(fastest * scale)), LEAST_FUSED), MOST_FUSED)
    return int(_announce({"fusion": chosen}, task.communicator, f"{task.name}.fusion")["fusion"])


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Draw values to exchange, where the codec of ``task`` takes them."""

    task: Task

    def values(self, elements: int) -> Any:
        drawn = np.random.default_rng(self.task.communicator.rank).standard_normal(elements).astype(np.float32)
        return self.task.codec.arrays.copied(drawn)


def _plain_run(plain: PlainAllreduce, floats: Bytes, half: bool, name: str) -> _Run:
    return lambda: plain.start(floats, half, name).wait()


def _exchange_run(exchange: ExchangeFunction, task: Task, groups: Sequence[Any]) -> _Run:
    """Return what averages ``groups`` as a step does: on the host, by way of fusion buffers."""
    on_host = isinstance(groups[0], np.ndarray)
    buffers = [np.empty_like(values) if on_host else values for values in groups]

    def average() -> None:
        under_way = GroupsInFlight(task.ledger)
        for group, (values, buffer) in enumerate(zip(groups, buffers, strict=True)):
            if on_host:
                np.copyto(buffer, values)
            under_way.start(group, exchange(buffer, replace(task, name=f"{task.name}.{group}", group=group)), buffer)
            under_way.advance()
        for group, (values, buffer) in enumerate(zip(groups, buffers, strict=True)):
            under_way.finish(group, 1 / task.communicator.size, MOST_COLLECTIVES)
            if on_host:
                np.copyto(values, buffer)
        task.codec.raise_for_damage()  # which waits for a device: its time counts

    return average


def _best_times(runs: Mapping[str, Sequence[_Run]], task: Task) -> dict[str, list[float]]:
    """Return the shortest time of each run on this rank; all ranks run all of them as often, neighbours unalike."""
    times: dict[str, list[list[float]]] = {name: [] for name in runs}
    began = time.perf_counter()
    _measure(runs, times, PASSES)
    quick = time.perf_counter() - began < QUICK
    if _announce({"quick": quick}, task.communicator, f"{task.name}.quick")["quick"]:
        _measure(runs, times, MORE_PASSES)
    return {name: [min(of_size) for of_size in zip(*passes[1:], strict=True)] for name, passes in times.items()}


def _measure(runs: Mapping[str, Sequence[_Run]], times: dict[str, list[list[float]]], passes: int) -> None:
    """Append to ``times`` the seconds of each size, ``passes`` times; neighbours in time are of different ways."""
    for _ in range(passes):
        for name, sizes in runs.items():
            seconds = []
            for run in sizes:
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
            times[name].append(seconds)


def _announce(own: dict[str, Any], communicator: Communicator, name: str) -> dict[str, Any]:
    """Return the leader's values on every rank."""
    told: dict[str, Any] = json.loads(broadcast_bytes(communicator, json.dumps(own).encode(), _LEADER, name))
    return told
