"""Four ranks of FSDP2: what comes of gradients on each kind of mesh, what travels, and what is refused.

Usage: sharded.py RESULTS_DIRECTORY
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

import alq_hvd
from alq_hvd.checkpoint import Checkpoint
from alq_hvd.communicator.torch_distributed import TorchCommunicator

WIDTH, CLASSES = 256, 4


def model(mesh: Any, *, layers: int = 2, together: bool = False, **policy: Any) -> Any:
    """Return a sharded model, the same at every call: layers of WIDTH, and a head."""
    torch.manual_seed(0)
    made = torch.nn.Sequential(*[torch.nn.Linear(WIDTH, WIDTH) for _ in range(layers)], torch.nn.Linear(WIDTH, CLASSES))
    options = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(**policy)}
    for part in [list(made[:layers])] if together else made:
        fully_shard(part, **options)
    return fully_shard(made, **options)


def backward(made: Any, seed: int = 0) -> torch.Tensor:
    """Return the gradient of this rank's inputs, reduced, all of it on every rank."""
    made.zero_grad()
    generator = torch.Generator().manual_seed(100 * seed + dist.get_rank())
    made(torch.randn(8, WIDTH, generator=generator)).square().sum().backward()
    return torch.cat([parameter.grad.full_tensor().flatten() for parameter in made.parameters()])


def error(got: torch.Tensor, exact: torch.Tensor) -> float:
    return float((got - exact).square().sum() / exact.square().sum())


@contextmanager
def counting(counted: list[int]) -> Iterator[None]:
    """Count the bytes for other ranks that an all-to-all is handed, where torch takes them."""
    kind, own = dist.ProcessGroupGloo, dist.ProcessGroupGloo.alltoall_base

    def counts(group: Any, received: Any, sent: Any, *splits: Any) -> Any:
        counted.append(sent.numel() * sent.element_size() * (group.size() - 1) // group.size())
        return own(group, received, sent, *splits)

    kind.alltoall_base = counts
    try:
        yield
    finally:
        kind.alltoall_base = own


def meshes(line: Any, grid: Any) -> dict[str, Any]:
    """Return, for each way through the mesh, the error of the first step, of one with fitted levels, and metrics."""
    exact = backward(model(line))
    between = {"between": grid["replicate"]}
    ways: dict[str, tuple[Any, dict[str, Any]]] = {
        "sharded": (line, {}),
        "hybrid of FSDP": (grid, {}),
        "between": (grid["shard"], between),
        "between, two shots": (grid["shard"], {**between, "exchange": "two_shot", "bits": (4, 8)}),
        "inside and between": (grid["shard"], {**between, "inside": True}),
        "none": (line, {"method": "none", "bits": None}),
    }
    told: dict[str, Any] = {}
    for way, (mesh, options) in ways.items():
        made = model(mesh)
        compression = alq_hvd.fsdp.compress(made, **{"bits": 4, "schedule": [0], **options})
        errors = [error(backward(made), exact) for _ in range(2)]
        told[way] = {"errors": errors, "metrics": compression.metrics()}
    made = model(line, param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16)
    alq_hvd.fsdp.compress(made, bits=4, schedule=[0])
    told["bfloat16"] = {"errors": [error(backward(made), exact) for _ in range(2)]}
    made = model(line, together=True)
    alq_hvd.fsdp.compress(made, bits=4, schedule=[0])
    told["together"] = {"errors": [error(backward(made), exact) for _ in range(2)]}
    return told


def mean_of_many(line: Any) -> dict[str, float]:
    exact, made = backward(model(line)), model(line)
    alq_hvd.fsdp.compress(made, bits=2, schedule=[0])
    backward(made)
    draws = [backward(made) for _ in range(50)]
    return {"one": error(draws[0], exact), "mean": error(torch.stack(draws).mean(0), exact)}


def traffic(line: Any) -> dict[str, int]:
    made = model(line)
    compression = alq_hvd.fsdp.compress(made, bits=4, schedule=[], min_elements=2000)  # the head has fewer
    backward(made)
    handed: list[int] = []
    with counting(handed):
        backward(made)
    shards = [sum(parameter.to_local().numel() for parameter in part.parameters()) for part in made]
    return {
        "handed": sum(handed),
        "calls": len(handed),
        "counted": compression.metrics()["bytes_per_step"],
        "head": 3 * 4 * shards[-1],  # exact
        "fp32": 3 * 4 * sum(shards[:-1]),
    }


def training(line: Any) -> dict[str, list[float]]:
    def train(**options: Any) -> list[float]:
        made = model(line)
        if options:
            alq_hvd.fsdp.compress(made, **options)
        optimizer = torch.optim.SGD(made.parameters(), lr=0.05, momentum=0.9)
        generator = torch.Generator().manual_seed(1 + dist.get_rank())
        teacher = torch.randn(WIDTH, CLASSES, generator=torch.Generator().manual_seed(99))
        losses = []
        for _ in range(60):
            inputs = torch.randn(32, WIDTH, generator=generator)
            loss = torch.nn.functional.cross_entropy(made(inputs), (inputs @ teacher).argmax(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            dist.all_reduce(loss.detach_())
            losses.append(float(loss) / dist.get_world_size())
        return losses

    return {"fp32": train(), "4 bits": train(bits=4, schedule=20)}


def scaling(line: Any) -> dict[str, float]:
    """Return what gradients are, in units of FSDP's usual means, where it is told not to divide."""
    made = model(line)
    exact = backward(made)
    made.set_gradient_divide_factor(1.0)
    for part in made:
        part.set_gradient_divide_factor(1.0)
    alq_hvd.fsdp.compress(made, bits=8, schedule=[0])
    backward(made)
    return {"ratio": float((backward(made) * exact).sum() / exact.square().sum())}


def accumulation(line: Any) -> dict[str, Any]:
    made, exact = model(line), backward(model(line))
    compression = alq_hvd.fsdp.compress(made, bits=8, schedule=[0])
    backward(made)
    made.set_requires_gradient_sync(False)
    made.zero_grad()
    for turn in range(3):
        made.set_requires_gradient_sync(turn == 2)
        generator = torch.Generator().manual_seed(dist.get_rank())
        made(torch.randn(8, WIDTH, generator=generator)).square().sum().backward()
    total = torch.cat([parameter.grad.full_tensor().flatten() for parameter in made.parameters()])
    return {"error": error(total / 3, exact), "steps": compression.metrics()["step"]}


def resuming(grid: Any) -> dict[str, Any]:
    options = {"bits": 3, "schedule": 2, "between": grid["replicate"], "exchange": "two_shot", "error_feedback": True}
    first, resumed = model(grid["shard"]), model(grid["shard"])
    before = alq_hvd.fsdp.compress(first, **options)
    for step in range(3):
        backward(first, step)
    after = alq_hvd.fsdp.compress(resumed, **options)
    after.load_state_dict(before.state_dict())
    equal = torch.equal(backward(first, 3), backward(resumed, 3))
    other = alq_hvd.fsdp.compress(model(grid["shard"]), bits=3)
    return {"equal": equal, "levels": levels_of(before), "refused": refusal(other.load_state_dict, before.state_dict())}


def levels_of(compression: Any) -> list[int]:
    """Return the digests of the levels between nodes, which are to be the same on all ranks of the mesh."""
    return [shot.levels.digest for shot in compression.between.aggregator.shots.all]


def refusal(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    try:
        call(*arguments, **options)
    except (alq_hvd.AlqError, TypeError) as refused:
        return f"{type(refused).__name__}: {refused}"
    return "nothing"


def refusals(line: Any, grid: Any) -> dict[str, str]:
    compress, rank = alq_hvd.fsdp.compress, dist.get_rank()
    told = {
        "not sharded": refusal(compress, torch.nn.Linear(3, 3), bits=4),
        "no model": refusal(compress, [1, 2], bits=4),
        "options differ": refusal(compress, model(line), bits=3 if rank == 2 else 4),
        "models differ": refusal(compress, model(line, layers=3 if rank == 1 else 2), bits=4),
        "no such option": refusal(compress, model(line), bitz=4),
        "out of range": refusal(compress, model(line), bits=9),
        "residuals": refusal(compress, model(line), bits=4, error_feedback=True),
        "break even": refusal(compress, model(line), bits=4, break_even=True),
        "between a grid": refusal(compress, model(grid), bits=4, between=grid["replicate"]),
        "between itself": refusal(compress, model(grid["shard"]), bits=4, between=grid["shard"]),
        "a whole grid": refusal(compress, model(grid["shard"]), bits=4, between=grid),
        "between words": refusal(compress, model(grid["shard"]), bits=4, between="nodes"),
    }
    made = model(line)
    compression = compress(made, bits=4)
    told["twice"] = refusal(compress, made, bits=4)
    made.set_force_sum_reduction_for_comms(False)
    for part in made:
        part.set_force_sum_reduction_for_comms(False)
    told["average"] = refusal(backward, made)
    integers = torch.ones(4096, dtype=torch.int32)
    told["integers"] = refusal(compression.reduce_scatter, 0, None, integers[:1024], integers, None, dist.ReduceOp.SUM)
    mixed = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8).bfloat16())
    told["dtypes"] = refusal(compress, fully_shard(mixed, mesh=line), bits=4)
    groups = model(line)
    state = groups[0]._get_fsdp_state()
    state._fsdp_param_groups.append(state._fsdp_param_groups[0])
    told["parameter groups"] = refusal(compress, groups, bits=4)
    meshes = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    fully_shard(meshes[0], mesh=line)
    fully_shard(meshes[1], mesh=grid)
    told["meshes"] = refusal(compress, meshes, bits=4)
    with tempfile.TemporaryDirectory() as folder:
        optimizer = torch.optim.SGD(made.parameters())
        ranks = TorchCommunicator(timeout=60)
        checkpoint = Checkpoint(folder, model=made, optimizer=optimizer, communicator=ranks)
        told["checkpoint"] = refusal(checkpoint.save, 1, {})
    return told


def main(results: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    line = init_device_mesh("cpu", (4,))
    grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    told = {
        "meshes": meshes(line, grid),
        "mean": mean_of_many(line),
        "traffic": traffic(line),
        "training": training(line),
        "scaling": scaling(line),
        "accumulation": accumulation(line),
        "resuming": resuming(grid),
        "refusals": refusals(line, grid),
    }
    (results / f"{dist.get_rank()}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
