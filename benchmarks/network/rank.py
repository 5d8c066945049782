"""Be one rank: reduce the same gradients with every way in turn, and print seconds and bytes as JSON.

Usage: rank.py JSON, an object with front_end, elements, tensors, repeats and ways: name -> options of the compression,
or null for the host's own (fp32, fp16).

Ways take turns, repeat by repeat: what slows the machine down for a while slows all of them.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.network.front_ends import FRONT_ENDS, FrontEnd

WARM_UP = 2
SMALL_MESSAGES = 20


class Way:
    """Average the same gradients again and again, in one way.

    Args:
        front: reaches the other ranks.
        name: of the way, which no other way has.
        options: of the compression; ``None`` for the host's own.
        elements: coordinates of each gradient.
        tensors: how many gradients.
    """

    def __init__(self, front: FrontEnd, name: str, options: dict[str, Any] | None, elements: int, tensors: int) -> None:
        self.name, self._front, self._elements = name, front, elements
        named = [(f"p{index}", torch.nn.Parameter(torch.zeros(elements))) for index in range(tensors)]
        gradients = [torch.from_numpy(draw(front.rank, index, elements)) for index in range(tensors)]
        self._reducer = front.reducer(name, options, named, gradients)
        self.seconds: list[float] = []
        self.bytes: list[int] = []
        self.result: list[torch.Tensor] = []

    def reduce(self) -> None:
        """Average the gradients once, outside the measurement."""
        self._reducer.prepare()
        self.result = self._reducer.reduce()

    def measure(self) -> None:
        """Reduce once; note the seconds, and the bytes that have left when every rank is done."""
        self._reducer.prepare()
        self._front.barrier()
        before, start = sent(), time.perf_counter()
        self.result = self._reducer.reduce()
        self.seconds.append(time.perf_counter() - start)
        self._front.barrier()
        self.bytes.append(sent() - before)

    def outcome(self) -> dict[str, Any]:
        """Return what was measured, the error of the mean, and what the compression says of itself."""
        exact = np.mean([draw(rank, 0, self._elements) for rank in range(self._front.size)], axis=0, dtype=np.float64)
        off = self.result[0].double().numpy() - exact
        told: dict[str, Any] = {
            "seconds": self.seconds,
            "bytes": statistics.median(self.bytes),
            "error": float((off**2).sum() / (exact**2).sum()),
        }
        if hasattr(self._reducer.compression, "metrics"):
            metrics = self._reducer.compression.metrics()
            told |= {"exchange": metrics["exchange"], "break_even": metrics["break_even"]}
            told["phases"] = {name: spent / metrics["step"] for name, spent in metrics["seconds"].items()}
        return told


def sent() -> int:
    """Return how many bytes have left through eth0 so far, all headers counted."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "eth0":
            return int(counters.split()[8])
    raise RuntimeError("this host has no eth0")


def idle(front: FrontEnd) -> float:
    """Return how many bytes a second this rank sends while nothing is reduced: Horovod's ranks ask each other."""
    front.barrier()
    start, before = time.perf_counter(), sent()
    time.sleep(1)
    return (sent() - before) / (time.perf_counter() - start)


def small_message(front: FrontEnd) -> float:
    """Return the seconds of a collective that carries next to nothing."""
    times = []
    for _ in range(SMALL_MESSAGES):
        front.barrier()
        start = time.perf_counter()
        front.gather_nothing()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def draw(rank: int, index: int, elements: int) -> np.ndarray:
    """Return the gradient of one tensor on one rank: half of it common to all ranks."""
    common = np.random.default_rng([index]).standard_normal(elements)
    own = np.random.default_rng([index, rank + 1]).standard_normal(elements)
    return (common + own).astype(np.float32)


def main() -> None:
    """Measure what the first argument asks for."""
    job = json.loads(sys.argv[1])
    front: FrontEnd = FRONT_ENDS[job["front_end"]]()
    per_tensor = job["elements"] // job["tensors"]
    ways = [Way(front, name, options, per_tensor, job["tensors"]) for name, options in job["ways"].items()]
    for way in ways:
        for _ in range(WARM_UP):
            way.reduce()
    for _ in range(job["repeats"]):
        for way in ways:
            way.measure()
    outcomes = {way.name: way.outcome() for way in ways}
    quiet = {"idle_bytes_per_second": idle(front), "small_message_seconds": small_message(front)}
    print(json.dumps({"ways": outcomes, **quiet}))


if __name__ == "__main__":
    main()
