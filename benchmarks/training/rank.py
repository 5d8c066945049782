"""Be one rank: train the same model with one way after another under DDP over Gloo, and print what came out as JSON.

Usage: rank.py JSON, an object with task, ways, seed, steps, batch, every and exchange. Ranks find each other as
torchrun's do, by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. With ``optimizer``, an object, the job sets options of
the task's optimizer, for example ``{"lr": 0.1}``; with ``decay`` its learning rate falls to 0 in a straight line.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.training.tasks import TASKS
from benchmarks.training.ways import Way


def train(way: Way, job: dict[str, Any]) -> dict[str, Any]:
    """Train with one way; return its curve, seconds without validation, and bytes."""
    rank, ranks, steps = dist.get_rank(), dist.get_world_size(), job["steps"]
    task = TASKS[job["task"]](job["seed"], rank, job["batch"])
    model = DistributedDataParallel(task.model, bucket_cap_mb=way.bucket_cap_mb)
    optimizer = task.optimizer(model.parameters())
    for group in optimizer.param_groups:
        group.update(job.get("optimizer", {}))
    last = 0.0 if job.get("decay") else 1.0
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, last, total_iters=steps)
    state = way.register(model, job["exchange"], job["seed"])
    curve: list[dict[str, float]] = []
    seconds = 0.0
    for step in range(1, steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        task.loss(model).backward()
        optimizer.step()
        schedule.step()
        seconds += time.perf_counter() - start
        if step % job["every"] == 0 or step == steps:
            with torch.no_grad():
                curve.append({"step": step, "seconds": seconds, "loss": task.validate(task.model)})
            dist.barrier()
    flat = torch.cat([parameter.detach().flatten() for parameter in task.model.parameters()])
    return {
        "curve": curve,
        "bytes_per_step": way.bytes_per_step(state, flat.numel(), ranks, steps),
        "parameters": flat.numel(),
        "digest": hashlib.sha256(flat.numpy().tobytes()).hexdigest(),
    }


def main() -> None:
    """Train with every way that the first argument asks for."""
    job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    outcomes = {name: train(Way.parse(name), job) for name in job["ways"]}
    dist.barrier()
    print(json.dumps(outcomes), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
