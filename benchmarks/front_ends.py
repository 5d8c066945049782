"""A step of ResNet-50's 161 gradients on two ranks of this host: Horovod and DDP side by side, plain and compressed.

The ways take turns in the same processes, so that all see the same machine. A step is a backward pass that costs little
(the gradients are given) and all that follows until the means are there. One host has no slow link: what is compared is
the work of the front ends, and not what compression saves.

    python benchmarks/front_ends.py                     # writes benchmarks/results/front-ends.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
RANKS = 2
LIMIT_SECONDS = 900


def main() -> None:
    """Start the ranks with horovodrun, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "front-ends.json")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank:
        measure(args)
        return
    launcher = str(Path(sys.executable).parent / "horovodrun")
    environment = {"OMP_NUM_THREADS": "1", "OMPI_MCA_mpi_yield_when_idle": "1", **os.environ}
    command = [launcher, "-np", str(RANKS), sys.executable, __file__, "--rank", *sys.argv[1:]]
    subprocess.run(command, check=True, timeout=LIMIT_SECONDS, env=environment)


def measure(args: argparse.Namespace) -> None:
    """Measure every way on this rank; rank 0 prints and writes."""
    import horovod.torch as hvd
    import torch
    import torch.distributed as dist

    import alq_hvd
    from alq_hvd.cli.resnet50 import resnet50_shapes
    from alq_hvd.machine import describe

    hvd.init()
    store = hvd.broadcast_object(str(Path.cwd() / f".front-ends-{os.getpid()}"), root_rank=0)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=hvd.rank(), world_size=hvd.size())
    generator = torch.Generator().manual_seed(hvd.rank())
    shapes = resnet50_shapes()
    given = [torch.randn(shape, generator=generator) for shape in shapes]
    options: dict[str, Any] = {
        "bits": args.bits,
        "exchange": "two_shot",
        "schedule": [0],
        "break_even": False,
        "measure_every": 10**9,
    }

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.ParameterList(torch.zeros(shape) for shape in shapes)

        def forward(self) -> torch.Tensor:
            return torch.stack([(w * g).sum() for w, g in zip(self.weights, given, strict=True)]).sum()

    def horovod_step(compressed: bool) -> Callable[[], None]:
        model = Model()
        compression = (
            alq_hvd.Compression.optimal(named_parameters=model.named_parameters(), **options)
            if compressed
            else hvd.Compression.none
        )
        optimizer = hvd.DistributedOptimizer(
            torch.optim.SGD(model.parameters(), lr=0.0),
            named_parameters=model.named_parameters(),
            compression=compression,
        )

        def step() -> None:
            optimizer.zero_grad()
            model().backward()
            optimizer.synchronize()

        return step

    def ddp_step(compressed: bool) -> Callable[[], None]:
        model = torch.nn.parallel.DistributedDataParallel(Model())
        if compressed:
            state = alq_hvd.ddp.CompressionState(method="optimal", **options)
            model.register_comm_hook(state, alq_hvd.ddp.hook)

        def step() -> None:
            model.zero_grad()
            model().backward()

        return step

    ways = {
        "Horovod, fp32": horovod_step(False),
        f"Horovod, optimal, {args.bits} bits": horovod_step(True),
        "DDP, fp32": ddp_step(False),
        f"DDP, optimal, {args.bits} bits": ddp_step(True),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(args.steps + 3):
        for way, step in ways.items():
            hvd.allreduce(torch.zeros(1), name="barrier")
            start = time.perf_counter()
            step()
            if number >= 3:  # the first ones lay out, make buckets anew, fit levels
                seconds[way].append(time.perf_counter() - start)
    if hvd.rank() == 0:
        Path(store).unlink(missing_ok=True)
        rows = [
            {"way": way, "median_ms": round(1e3 * statistics.median(of), 1), "least_ms": round(1e3 * min(of), 1)}
            for way, of in seconds.items()
        ]
        for row in rows:
            print(f"{row['way']:<28}{row['median_ms']:>9.1f} ms median{row['least_ms']:>9.1f} ms least")
        machine = {name: value for name, value in describe().items() if name != "host"}
        result = {"ranks": RANKS, "gradients": len(shapes), "steps": args.steps, "rows": rows, "machine": machine}
        args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
