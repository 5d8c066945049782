"""Be one rank: reduce the same gradients with every way in turn, and print seconds and bytes as JSON.

Usage: rank.py JSON, an object with elements, tensors, repeats and ways: name -> options of alq_hvd.Compression, or null
for plain Horovod (fp32, fp16).

Ways take turns, repeat by repeat: what slows the machine down for a while slows all of them.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import numpy as np
import torch

import alq_hvd

WARM_UP = 2
SMALL_MESSAGES = 20


class Way:
    """Average the same gradients again and again, in one way.

    Args:
        name: of the way, which no other way has.
        options: of ``alq_hvd.Compression``; ``None`` for plain Horovod.
        elements: coordinates of each gradient.
        tensors: how many gradients.
    """

    def __init__(self, name: str, options: dict[str, Any] | None, elements: int, tensors: int) -> None:
        self.name = name
        self.parameters = [(f"p{index}", torch.nn.Parameter(torch.zeros(elements))) for index in range(tensors)]
        self.gradients = [torch.from_numpy(draw(hvd.rank(), index, elements)) for index in range(tensors)]
        self.compression = self._compression(options)
        self.seconds: list[float] = []
        self.bytes: list[int] = []
        self.result: list[torch.Tensor] = []

    def _compression(self, options: dict[str, Any] | None) -> Any:
        if options is None:
            return hvd.Compression.fp16 if self.name == "fp16" else hvd.Compression.none
        settings = {**options, "bits": tuple(options["bits"]) if isinstance(options["bits"], list) else options["bits"]}
        method = getattr(alq_hvd.Compression, settings.pop("method"))
        return method(named_parameters=self.parameters, name=self.name, **settings)

    def backward(self) -> None:
        """Bring the gradients, which the last reduction has overwritten with their mean."""
        for (_, parameter), gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient.clone()

    def reduce(self) -> None:
        """Average the gradients in the order in which ``hvd.DistributedOptimizer`` calls."""
        started = []
        for name, parameter in self.parameters:
            compressed, context = self.compression.compress(parameter.grad)
            handle = hvd.allreduce_async_(compressed, name=f"{self.name}.{name}", op=hvd.Average)
            started.append((handle, context))
        self.result = [self.compression.decompress(hvd.synchronize(handle), context) for handle, context in started]

    def measure(self) -> None:
        """Reduce once; note the seconds, and the bytes that have left when every rank is done."""
        self.backward()
        hvd.barrier()
        before, start = sent(), time.perf_counter()
        self.reduce()
        self.seconds.append(time.perf_counter() - start)
        hvd.barrier()
        self.bytes.append(sent() - before)

    def outcome(self) -> dict[str, Any]:
        """Return what was measured, the error of the mean, and what the compression says of itself."""
        elements = self.parameters[0][1].numel()
        exact = np.mean([draw(rank, 0, elements) for rank in range(hvd.size())], axis=0, dtype=np.float64)
        off = self.result[0].double().numpy() - exact
        told: dict[str, Any] = {
            "seconds": self.seconds,
            "bytes": statistics.median(self.bytes),
            "error": float((off**2).sum() / (exact**2).sum()),
        }
        if hasattr(self.compression, "metrics"):
            metrics = self.compression.metrics()
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


def idle() -> float:
    """Return how many bytes a second this rank sends while nothing is reduced: Horovod's ranks ask each other."""
    hvd.barrier()
    start, before = time.perf_counter(), sent()
    time.sleep(1)
    return (sent() - before) / (time.perf_counter() - start)


def small_message() -> float:
    """Return the seconds of a collective that carries next to nothing."""
    nothing, times = torch.zeros(8, dtype=torch.uint8), []
    for _ in range(SMALL_MESSAGES):
        hvd.barrier()
        start = time.perf_counter()
        hvd.allgather(nothing, name="small")
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def draw(rank: int, index: int, elements: int) -> np.ndarray:
    """Return the gradient of one tensor on one rank: half of it common to all ranks."""
    common = np.random.default_rng([index]).standard_normal(elements)
    own = np.random.default_rng([index, rank + 1]).standard_normal(elements)
    return (common + own).astype(np.float32)


def main() -> None:
    """Measure what the first argument asks for."""
    hvd.init()
    job = json.loads(sys.argv[1])
    per_tensor = job["elements"] // job["tensors"]
    ways = [Way(name, options, per_tensor, job["tensors"]) for name, options in job["ways"].items()]
    for way in ways:
        for _ in range(WARM_UP):
            way.backward()
            way.reduce()
    for _ in range(job["repeats"]):
        for way in ways:
            way.measure()
    outcomes = {way.name: way.outcome() for way in ways}
    told = {"ways": outcomes, "idle_bytes_per_second": idle(), "small_message_seconds": small_message()}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
