"""Run on every rank: train as programs really do, and tell what came of it.

Usage: messy.py RESULTS_DIRECTORY WHAT
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import torch

import alq_hvd

OPTIONS: dict[str, Any] = {"bits": 4, "min_elements": 100, "timeout": 60.0, "break_even": False}


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Tanh(), torch.nn.Linear(30, 20))


def wrapped(trained: torch.nn.Module, compression: Any, **options: Any) -> Any:
    named = trained.named_parameters()
    return hvd.DistributedOptimizer(
        torch.optim.SGD(trained.parameters(), lr=0.1), named_parameters=named, compression=compression, **options
    )


def backward(trained: torch.nn.Module, step: int) -> dict[str, torch.Tensor]:
    """Make gradients, and return copies of them by name."""
    generator = torch.Generator().manual_seed(100 * step + hvd.rank())
    trained.zero_grad()
    trained(torch.randn(8, 40, generator=generator)).square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in trained.named_parameters()}


def off(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


def join() -> dict[str, Any]:
    """Rank 0 takes two steps more than the others, which join; then all go on."""
    told: dict[str, Any] = {}
    for exchange in ("allgather", "two_shot", "auto"):
        trained = model()
        compression = alq_hvd.Compression.optimal(
            **{**OPTIONS, "exchange": exchange, "schedule": [3]}, named_parameters=trained.named_parameters()
        )
        optimizer = wrapped(trained, compression)
        errors = []
        for step in range(5 if hvd.rank() == 0 else 3):
            own = backward(trained, step)["0.weight"]
            optimizer.synchronize()
            if step >= 3:  # Horovod adds zeros for the others, and divides by the number of all
                errors.append(off(trained[0].weight.grad, own / hvd.size()))  # type: ignore[union-attr,operator]
            with optimizer.skip_synchronize():
                optimizer.step()
        hvd.join()
        hvd.broadcast_parameters(trained.state_dict(), root_rank=0)
        for step in range(5, 8):
            backward(trained, step)
            optimizer.step()
        weights = torch.cat([parameter.detach().reshape(-1) for parameter in trained.parameters()])
        metrics = compression.metrics()
        told[exchange] = {
            "errors": errors,
            "step": metrics["step"],
            "digest": zlib.crc32(weights.numpy().tobytes()),
            "fits": [fit["step"] for fit in metrics["adaptations"]],
        }
    return told


def two_optimizers() -> list[float]:
    """Two models with parameters of the same names, whose hooks fire in another order on each rank."""
    models = [model(), model()]
    for trained, scale in zip(models, (1.0, 100.0), strict=True):
        for parameter in trained.parameters():
            parameter.grad = torch.full_like(parameter, scale)
    made = [alq_hvd.Compression.qsgdinf(**OPTIONS, named_parameters=each.named_parameters()) for each in models]
    pairs = list(zip(models, made, strict=True))
    tickets: dict[int, list[Any]] = {}
    for which in (0, 1) if hvd.rank() % 2 == 0 else (1, 0):
        trained, compression = pairs[which]
        tickets[which] = []
        for name, parameter in trained.named_parameters():
            tensor, context = compression.compress(parameter.grad)
            tickets[which].append((hvd.allreduce_async(tensor, name=f"{which}.{name}"), context))
    means = []
    for which, (_, compression) in enumerate(pairs):
        results = [compression.decompress(hvd.synchronize(handle), context) for handle, context in tickets[which]]
        means.append(float(torch.cat([result.reshape(-1) for result in results]).mean()))
    return means


def synchronize_twice() -> dict[str, Any]:
    trained = model()
    compression = alq_hvd.Compression.qsgdinf(**{**OPTIONS, "bits": 2}, named_parameters=trained.named_parameters())
    optimizer = wrapped(trained, compression)
    changed, clipped = [], []
    for step in range(3):
        backward(trained, step)
        optimizer.synchronize()
        first = [parameter.grad.clone() for parameter in trained.parameters()]
        optimizer.synchronize()
        changed += [off(parameter.grad, one) for one, parameter in zip(first, trained.parameters(), strict=True)]
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 0.01)
        clipped.append(float(torch.cat([parameter.grad.reshape(-1) for parameter in trained.parameters()]).norm()))
        with optimizer.skip_synchronize():
            optimizer.step()
    return {"changed": max(changed), "clipped": clipped, "step": compression.metrics()["step"]}


def sparse_as_dense() -> dict[str, Any]:
    """An embedding with sparse gradients, which rank 1 does not use in the first step, beside one of the same shape."""
    torch.manual_seed(0)
    tables = torch.nn.ModuleList(torch.nn.Embedding(50, 16, sparse=True) for _ in range(2))
    compression = alq_hvd.Compression.qsgdinf(
        **{**OPTIONS, "bucket_size": 1}, named_parameters=tables.named_parameters()
    )
    optimizer = wrapped(tables, compression, sparse_as_dense=True)
    sums = []
    for step in range(3):
        for parameter in tables.parameters():
            parameter.grad = None
        used = [tables[1]] if hvd.rank() == 1 and step == 0 else list(tables)
        words = torch.tensor([step, 7, 7])
        sum((number + 1) * table(words).sum() for number, table in enumerate(used)).backward()
        optimizer.synchronize()
        sums.append([float(table.weight.grad.to_dense().sum()) for table in tables])
        with optimizer.skip_synchronize():
            optimizer.step()
    metrics = compression.metrics()
    return {"sums": sums, "step": metrics["step"], "compressed": metrics["compressed_elements"]}


def direct_call() -> dict[str, Any]:
    compression = alq_hvd.Compression.qsgdinf(**{**OPTIONS, "bits": 8})
    own = torch.randn(3000, generator=torch.Generator().manual_seed(hvd.rank()))
    kept = own.clone()
    means = [hvd.allreduce(own, name="own", compression=compression) for _ in range(3)]
    exact = hvd.allreduce(own, name="exact")
    return {"kept": torch.equal(own, kept), "off": [off(mean, exact) for mean in means]}


def main() -> None:
    hvd.init()
    results = {name: globals()[name]() for name in sys.argv[2].split(",")}
    (Path(sys.argv[1]) / f"{hvd.rank()}.json").write_text(json.dumps(results))


main()
