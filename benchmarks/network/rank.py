"""Be one rank: reduce the same gradients with every way in turn, and print seconds and bytes as JSON.

Usage: rank.py JSON, an object with elements, tensors, repeats and ways: name -> options of alq_hvd.Compression, or null
for plain Horovod (fp32, fp16).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import numpy as np
import torch

import alq_hvd

WARM_UP = 2


def sent() -> int:
    """Return how many bytes have left through eth0 so far, all headers counted."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "eth0":
            return int(counters.split()[8])
    raise RuntimeError("this host has no eth0")


def reduce(way: str, compression: Any, parameters: list[tuple[str, torch.nn.Parameter]]) -> list[torch.Tensor]:
    """Average the gradients in the order in which ``hvd.DistributedOptimizer`` calls."""
    started = []
    for name, parameter in parameters:
        compressed, context = compression.compress(parameter.grad)
        # The optimizer reduces a gradient in place; here the gradient is kept for the next repeat.
        compressed = compressed.clone() if compressed is parameter.grad else compressed
        handle = hvd.allreduce_async_(compressed, name=f"{way}.{name}", op=hvd.Average)
        started.append((handle, context))
    return [compression.decompress(hvd.synchronize(handle), context) for handle, context in started]


def measure(way: str, options: dict[str, Any] | None, job: dict[str, Any]) -> dict[str, Any]:
    """Return seconds of every repeat, bytes sent by this rank in one, and the error of the mean."""
    size, per_tensor = hvd.size(), job["elements"] // job["tensors"]
    parameters = [(f"p{index}", torch.nn.Parameter(torch.zeros(per_tensor))) for index in range(job["tensors"])]
    for index, (_, parameter) in enumerate(parameters):
        parameter.grad = torch.from_numpy(draw(hvd.rank(), index, per_tensor))
    if options is None:
        compression: Any = getattr(hvd.Compression, "none" if way == "fp32" else way)
    else:
        settings = {**options, "bits": tuple(options["bits"]) if isinstance(options["bits"], list) else options["bits"]}
        method = settings.pop("method")
        compression = getattr(alq_hvd.Compression, method)(named_parameters=parameters, name=way, **settings)
    for _ in range(WARM_UP):
        reduce(way, compression, parameters)
    hvd.barrier()
    seconds: list[float] = []
    before = sent()
    for _ in range(job["repeats"]):
        start = time.perf_counter()
        result = reduce(way, compression, parameters)
        seconds.append(time.perf_counter() - start)
    counted = sent() - before
    hvd.barrier()
    exact = np.mean([draw(rank, 0, per_tensor) for rank in range(size)], axis=0, dtype=np.float64)
    off = result[0].double().numpy() - exact
    outcome = {
        "seconds": seconds,
        "bytes": counted / job["repeats"],
        "error": float((off**2).sum() / (exact**2).sum()),
    }
    if options is not None:
        metrics = compression.metrics()
        outcome |= {"exchange": metrics["exchange"], "break_even": metrics["break_even"]}
        outcome["phases"] = {name: spent / metrics["step"] for name, spent in metrics["seconds"].items()}
    return outcome


def idle() -> float:
    """Return how many bytes a second this rank sends while nothing is reduced: Horovod's ranks ask each other."""
    hvd.barrier()
    start, before = time.perf_counter(), sent()
    time.sleep(1)
    return (sent() - before) / (time.perf_counter() - start)


def draw(rank: int, index: int, elements: int) -> np.ndarray:
    """Return the gradient of one tensor on one rank: half of it common to all ranks."""
    common = np.random.default_rng([index]).standard_normal(elements)
    own = np.random.default_rng([index, rank + 1]).standard_normal(elements)
    return (common + own).astype(np.float32)


if __name__ == "__main__":
    hvd.init()
    asked = json.loads(sys.argv[1])
    outcomes = {way: measure(way, options, asked) for way, options in asked["ways"].items()}
    print(json.dumps({"ways": outcomes, "idle_bytes_per_second": idle()}))
