"""Train under the hook of DDP for many steps on four ranks with random delays, and see that no collective is mispaired.

Each rank waits at random before buckets and between steps, so that second shots start at another moment on each rank
every time. A mispaired collective would end in an error or a hang: both end this program with an error.

    python benchmarks/ddp_endurance.py                  # 10 000 steps; writes benchmarks/results/ddp-endurance.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

import alq_hvd  # noqa: E402
from alq_hvd.machine import describe  # noqa: E402
from tests.support.forked import fork  # noqa: E402

RESULT = Path(__file__).parent / "results" / "ddp-endurance.json"
RANKS = 4


def train(results: Path, steps: int, delay: float) -> None:
    """Train one rank, and write its digest of the weights and its seconds."""
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (torch.nn.Linear(48, 48), torch.nn.Tanh())]
    model = DistributedDataParallel(torch.nn.Sequential(*layers, torch.nn.Linear(48, 8)), bucket_cap_mb=0.01)
    state = alq_hvd.ddp.CompressionState(
        "alq", 4, bucket_size=64, fusion_elements=2500, exchange="two_shot", schedule=500, timeout=120
    )
    drawn = np.random.default_rng(dist.get_rank())

    def late(state: Any, bucket: Any) -> Any:
        if drawn.random() < 0.3:
            time.sleep(delay * drawn.random())
        return alq_hvd.ddp.hook(state, bucket)

    late.__annotations__.clear()  # DDP wants the very classes of torch, or none
    model.register_comm_hook(state, late)
    generator = torch.Generator().manual_seed(dist.get_rank())
    start = time.perf_counter()
    for _ in range(steps):
        model.zero_grad()
        model(torch.randn(4, 48, generator=generator)).square().mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.05 * parameter.grad
        if drawn.random() < 0.3:
            time.sleep(delay * drawn.random())
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    told = {
        "digest": hashlib.sha256(flat.numpy().tobytes()).hexdigest(),
        "seconds": time.perf_counter() - start,
        "steps": state.metrics()["step"],
        "groups": -(-state.metrics()["compressed_elements"] // 2500),
        "levels_version": state.metrics()["levels_version"],
    }
    (results / f"{dist.get_rank()}.json").write_text(json.dumps(told))
    dist.barrier()


def main() -> None:
    """Start the ranks, compare them, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--delay", type=float, default=0.002, metavar="SECONDS", help="longest of each wait")
    parser.add_argument("--output", type=Path, default=RESULT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        fork(RANKS, partial(train, steps=args.steps, delay=args.delay), Path(directory))
        told = [json.loads((Path(directory) / f"{rank}.json").read_text()) for rank in range(RANKS)]
    if len({each["digest"] for each in told}) != 1:
        raise SystemExit("weights differ between ranks")
    first = told[0]
    result = {
        "ranks": RANKS,
        "steps": first["steps"],
        "longest_delay_s": args.delay,
        "fusion_groups": first["groups"],
        "levels_version": first["levels_version"],
        "equal_weights": True,
        "seconds": round(first["seconds"], 1),
        "machine": describe(),
    }
    result["machine"].pop("host")
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{RANKS} ranks, {first['steps']} steps, random delays: equal weights, {first['seconds']:.0f} s")


if __name__ == "__main__":
    main()
