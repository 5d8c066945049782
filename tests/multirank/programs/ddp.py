"""Run four ranks, as forks of this process: DDP trains under the hook in every way that DDP offers.

Usage: ddp.py RESULTS_DIRECTORY
"""

from __future__ import annotations

import hashlib
import inspect
import json
import random
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[3]))  # the program's own folder stands there, not the checkout

import alq_hvd
from alq_hvd.errors import AlqError
from tests.support.forked import fork
from tests.support.leaving import leave_together

RANKS, STEPS = 4, 4


class Branches(torch.nn.Module):
    """A model of which a pass leaves a branch out, by turns; ``head`` gives the result."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other = torch.nn.Linear(20, 40), torch.nn.Linear(20, 40)
        self.head = torch.nn.Linear(40, 10)
        self.passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        branch = self.other if self.passes % 2 else self.first
        return self.head(torch.relu(branch(x)))  # type: ignore[no-any-return]


def model(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (torch.nn.Linear(40, 40), torch.nn.ReLU())]
    return torch.nn.Sequential(torch.nn.Linear(20, 40), *layers, torch.nn.Linear(40, 10)).to(dtype)


def state(method: str = "alq", **options: Any) -> Any:
    chosen = {
        "bits": 4,
        "bucket_size": 64,
        "min_elements": 50,
        "fusion_elements": 2000,
        "schedule": [0, 2],
        "break_even": False,
    }
    return alq_hvd.ddp.CompressionState(method, **{**chosen, "timeout": 60, **options})


def train(
    made: Any, net: torch.nn.Module | None = None, *, steps: int = STEPS, accumulate: bool = False, **ddp: Any
) -> Any:
    """Return digest and values of the weights after some steps; ``made`` is the state, or ``None`` for plain DDP."""
    net = net or model()
    wrapped = DistributedDataParallel(net, bucket_cap_mb=0.01, **ddp)
    if made is not None:
        wrapped.register_comm_hook(made, alq_hvd.ddp.hook)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(dist.get_rank())
    dtype = next(net.parameters()).dtype
    for _ in range(steps):
        optimizer.zero_grad()
        for part in range(2 if accumulate else 1):
            with wrapped.no_sync() if accumulate and not part else nullcontext():
                x = torch.randn(8, 20, generator=generator).to(dtype)
                wrapped(x).float().square().mean().backward()
        optimizer.step()
    return weights(net)


def weights(net: torch.nn.Module) -> dict[str, Any]:
    flat = torch.cat([parameter.detach().reshape(-1).float() for parameter in net.parameters()])
    return {"digest": hashlib.sha256(flat.numpy().tobytes()).hexdigest(), "weights": flat.tolist()}


def uneven(made: Any) -> dict[str, Any]:
    """Train with one more batch on each rank than on the one before it."""
    net = model()
    wrapped = DistributedDataParallel(net, bucket_cap_mb=0.01)
    wrapped.register_comm_hook(made, alq_hvd.ddp.hook)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    with wrapped.join():
        for _ in range(2 + dist.get_rank()):
            optimizer.zero_grad()
            wrapped(torch.ones(8, 20)).square().mean().backward()
            optimizer.step()
    return {**weights(net), "step": made.metrics()["step"]}


def delayed(steps: int = 60) -> dict[str, Any]:
    """Train with random waits before buckets, other ones on each rank: second shots start at other moments there."""
    made, net, drawn = state(exchange="two_shot", schedule=20), model(), random.Random(dist.get_rank())

    def late(state: Any, bucket: Any) -> Any:
        time.sleep(0.004 * drawn.random() if drawn.random() < 0.5 else 0)
        return alq_hvd.ddp.hook(state, bucket)

    late.__annotations__.clear()  # DDP wants the very classes of torch, or none
    wrapped = DistributedDataParallel(net, bucket_cap_mb=0.01)
    wrapped.register_comm_hook(made, late)
    for step in range(steps):
        wrapped.zero_grad()
        wrapped(torch.full((8, 20), float(step % 5))).square().mean().backward()
        with torch.no_grad():
            for parameter in wrapped.parameters():
                parameter -= 0.01 * parameter.grad
    return weights(net)


def resumed() -> tuple[Any, Any]:
    """Return the weights of a run, and of the same run with a cut, a checkpoint and new objects in its middle."""
    options = {"error_feedback": True, "exchange": "two_shot"}
    whole = state(**options)
    net, generator, saved = model(), torch.Generator().manual_seed(dist.get_rank()), Path()
    inputs = [torch.randn(8, 20, generator=generator) for _ in range(4)]

    def steps(wrapped: Any, few: list[torch.Tensor]) -> None:
        for x in few:
            wrapped.zero_grad()
            wrapped(x).square().mean().backward()
            with torch.no_grad():
                for parameter in wrapped.parameters():
                    parameter -= 0.1 * parameter.grad

    def wrap(net: torch.nn.Module, made: Any) -> Any:
        wrapped = DistributedDataParallel(net, bucket_cap_mb=0.01)
        wrapped.register_comm_hook(made, alq_hvd.ddp.hook)
        return wrapped

    wrapped = wrap(net, whole)
    steps(wrapped, inputs[:2])
    saved = Path(sys.argv[1]) / f"checkpoint-{dist.get_rank()}.pt"
    torch.save({"model": net.state_dict(), "compression": whole.state_dict()}, saved)
    steps(wrapped, inputs[2:])
    again, other, loaded = state(**options), model(), torch.load(saved, weights_only=False)
    other.load_state_dict(loaded["model"])
    again.load_state_dict(loaded["compression"])
    steps(wrap(other, again), inputs[2:])
    return weights(net)["digest"], weights(other)["digest"]


def error(doing: Callable[[], Any]) -> str:
    """Return the kind and the text of the error that ``doing`` raises."""
    try:
        doing()
    except (AlqError, RuntimeError) as raised:
        return f"{type(raised).__name__}: {raised}"
    return "none"


def registered_twice() -> None:
    wrapped = DistributedDataParallel(model())
    for _ in range(2):
        wrapped.register_comm_hook(state(), alq_hvd.ddp.hook)


def one_state_for_two_models() -> None:
    made = state()
    train(made)
    train(made)


def sparse() -> None:
    net = torch.nn.Embedding(30, 20, sparse=True)
    wrapped = DistributedDataParallel(net)
    wrapped.register_comm_hook(state(), alq_hvd.ddp.hook)
    wrapped(torch.tensor([1])).sum().backward()


def only_some_have_the_hook(rank: int) -> None:
    wrapped = DistributedDataParallel(model())
    if not rank:
        return
    wrapped.register_comm_hook(state(timeout=2), alq_hvd.ddp.hook)
    wrapped(torch.ones(8, 20)).sum().backward()


def main(results: Path) -> None:
    """Train in every way, and write this rank's results."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    outcome: dict[str, Any] = {
        "plain": train(None),
        "exact": train(state("qsgdinf", bucket_size=1, exchange="two_shot")),
        "two_shot": train(state(exchange="two_shot", bits=(4, 8))),
        "allgather": train(state(exchange="allgather")),
        "hierarchical": train(state(exchange="hierarchical", ranks_per_node=2)),
        "feedback": train(state("optimal", exchange="two_shot", error_feedback=True)),
        "auto": train(state(break_even=None)),
        "none": train(state("none")),
        "late": train(state(start_at=2)),
        "views": train(state(exchange="two_shot"), gradient_as_bucket_view=True),
        "static": train(state(exchange="two_shot"), static_graph=True),
        "unused": train(state(exchange="two_shot"), Branches(), find_unused_parameters=True),
        "accumulated": train(state("qsgdinf", bucket_size=1, exchange="two_shot"), accumulate=True),
        "plain accumulated": train(None, accumulate=True),
        "bf16": train(state(exchange="two_shot"), model(torch.bfloat16)),
        "fp16": train(state(exchange="two_shot"), model(torch.float16)),
        "uneven": uneven(state(exchange="two_shot")),
        "delayed": delayed(),
        "resumed": resumed(),
    }
    subgroup = [dist.new_group([0, 1]), dist.new_group([2, 3])][rank // 2]
    outcome["part"] = train(state(exchange="two_shot", process_group=subgroup), process_group=subgroup)
    made = state()
    train(made)
    outcome["metrics"] = made.metrics()
    outcome["seen as"] = str(inspect.signature(alq_hvd.ddp.hook))
    outcome["horovod"] = "horovod" in sys.modules
    outcome["errors"] = {
        "options": error(lambda: train(state(bits=3 + rank % 2))),
        "method": error(lambda: train(state("alq" if rank else "amq"))),
        "twice": error(registered_twice),
        "two models": error(one_state_for_two_models),
        "sparse": error(sparse),
        "hook on some": error(lambda: only_some_have_the_hook(rank)),
    }
    (results / f"{rank}.json").write_text(json.dumps(outcome))
    leave_together(results, RANKS)


if __name__ == "__main__":
    fork(RANKS, main, Path(sys.argv[1]))
