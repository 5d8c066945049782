"""Train for 10 000 steps on four ranks, under Horovod and under DDP: nothing may grow, and no rank may drift.

Each rank waits at random before its backward pass, so that collectives start at another moment on each rank every time.
Levels are fitted often, errors are fed back, checkpoints are written. At every ``--every``-th step a rank notes its
memory, open handles, threads, the checksum of its weights, and how long its history and its state are. A mispaired
collective would end in an error or a hang; both end this program with an error, and so does anything that it finds.

    python benchmarks/soak.py                           # writes benchmarks/results/soak.json
    python benchmarks/soak.py --front-end ddp --steps 2000 --output /tmp/soak.json
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
import zlib
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

RESULT = Path(__file__).parent / "results" / "soak.json"
FRONT_ENDS = ("horovod", "ddp")
RANKS = 4
OPTIONS: dict[str, Any] = {
    "bits": (4, 6),
    "bucket_size": 64,
    "min_elements": 100,
    "fusion_elements": 2500,
    "exchange": "two_shot",
    "error_feedback": True,
    "break_even": False,
    "timeout": 300,
}
FITS, HISTORY = 250, 100
"""How often levels are fitted, and how many fits metrics and state may remember."""
MAY_GROW = {"resident_bytes": 1.02, "handles": 1.0, "threads": 1.0, "state_bytes": 1.02}
"""From the second quarter to the last one: the first holds what is made once."""
LATENCY_MAY_GROW = 1.25
"""From the first quarter to the last one, of the fastest tenth of steps, by the clock and by the processor's."""


def model() -> Any:
    """Return the network, which starts alike on every rank."""
    import torch

    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (torch.nn.Linear(48, 48), torch.nn.Tanh())]
    return torch.nn.Sequential(*layers, torch.nn.Linear(48, 8))


def under_horovod(schedule: int) -> tuple[Any, Any, Any, Any, int]:
    """Return what is called, what is trained, optimizer, compression and rank."""
    import horovod.torch as hvd
    import torch

    import alq_hvd

    hvd.init()
    net = model()
    compression = alq_hvd.Compression.alq(schedule=schedule, named_parameters=net.named_parameters(), **OPTIONS)
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(net.parameters(), lr=0.05),
        named_parameters=net.named_parameters(),
        compression=compression,
    )
    return net, net, optimizer, compression, hvd.rank()


def under_ddp(schedule: int) -> tuple[Any, Any, Any, Any, int]:
    """Return what is called, what is trained, optimizer, compression and rank."""
    import torch
    import torch.distributed as dist

    import alq_hvd

    dist.init_process_group("gloo")
    net = model()
    wrapped = torch.nn.parallel.DistributedDataParallel(net, bucket_cap_mb=0.01)
    compression = alq_hvd.ddp.CompressionState(
        "alq", schedule=schedule, named_parameters=net.named_parameters(), **OPTIONS
    )
    wrapped.register_comm_hook(compression, alq_hvd.ddp.hook)
    return wrapped, net, torch.optim.SGD(net.parameters(), lr=0.05), compression, dist.get_rank()


def train(results: Path, front_end: str, steps: int, every: int, delay: float) -> None:
    """Train one rank, and write what it has noted."""
    import torch

    from alq_hvd.checkpoint import Checkpoint
    from alq_hvd.communicator.torch_distributed import TorchCommunicator

    begin = under_ddp if front_end == "ddp" else under_horovod
    wrapped, net, optimizer, compression, rank = begin(max(1, steps // FITS))
    checkpoint = Checkpoint(
        results / "checkpoints",
        model=net,
        optimizer=optimizer,
        compression=compression,
        communicator=TorchCommunicator() if front_end == "ddp" else None,
    )
    drawn, generator = random.Random(rank), torch.Generator().manual_seed(rank)
    seconds, processor, notes = np.zeros(steps), np.zeros(steps), []
    for step in range(steps):
        if drawn.random() < 0.3:
            time.sleep(delay * drawn.random())
        wall, own = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        wrapped(torch.randn(4, 48, generator=generator)).square().mean().backward()
        optimizer.step()
        seconds[step], processor[step] = time.perf_counter() - wall, time.process_time() - own
        if (step + 1) % every == 0:
            notes.append(note(step + 1, net, compression))
        if step % (10 * every) == 0:
            checkpoint.save(step + 1, {"step": step + 1})
    told = {"notes": notes, "seconds": quarters(seconds), "processor_seconds": quarters(processor)}
    told["fits"] = compression.metrics()["levels_version"]
    (results / f"{rank}.json").write_text(json.dumps(told))
    checkpoint.save(steps, {"step": steps})  # no rank leaves while another still waits


def note(step: int, net: Any, compression: Any) -> dict[str, int]:
    """Return what must not grow, and the checksum of the weights."""
    weights = b"".join(parameter.detach().numpy().tobytes() for parameter in net.parameters())
    return {
        "step": step,
        "checksum": zlib.crc32(weights),
        "resident_bytes": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        "handles": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "history": len(compression.metrics()["adaptations"]),
        "state_bytes": len(pickle.dumps(compression.state_dict())),
    }


def quarters(values: Any) -> list[dict[str, float]]:
    """Return the fastest tenth's bound, and the median, of each quarter of a run, in milliseconds."""
    parts = np.array_split(1e3 * values, 4)
    return [{"p10": round(float(np.quantile(part, 0.1)), 3), "p50": round(float(np.median(part)), 3)} for part in parts]


def judge(told: list[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Return the figures of a run, and what is wrong with it."""
    found = []
    notes = [each["notes"] for each in told]
    if any(len({each["checksum"] for each in at_once}) != 1 for at_once in zip(*notes, strict=True)):
        found.append("weights differ between ranks")
    if max(each["history"] for own in notes for each in own) > HISTORY:
        found.append(f"more than {HISTORY} fits are remembered")
    grown = {}
    for name, factor in MAY_GROW.items():
        before, after = [], []
        for own in notes:
            quarter = max(1, len(own) // 4)
            before.append(max(each[name] for each in own[quarter : 2 * quarter]))
            after.append(max(each[name] for each in own[-quarter:]))
        grown[name] = {"second_quarter": before, "last_quarter": after}
        if any(last > factor * settled for settled, last in zip(before, after, strict=True)):
            found.append(f"{name} grows: {grown[name]}")
    for rank, each in enumerate(told):
        clocks = each["seconds"], each["processor_seconds"]
        if all(clock[-1]["p10"] > LATENCY_MAY_GROW * clock[0]["p10"] for clock in clocks):
            found.append(f"steps of rank {rank} become slower: {each['seconds']}")
    figures = {
        "steps": notes[0][-1]["step"],
        "checksums_compared": len(notes[0]),
        "fits": told[0]["fits"],
        "fits_remembered": notes[0][-1]["history"],
        **grown,
        "step_ms_by_quarter": [each["seconds"] for each in told],
        "processor_ms_by_quarter": [each["processor_seconds"] for each in told],
        "found": found,
    }
    return figures, found


def run(front_end: str, args: argparse.Namespace, results: Path) -> list[dict[str, Any]]:
    """Start the ranks, and return what each has noted."""
    options = {"front_end": front_end, "steps": args.steps, "every": args.every, "delay": args.delay}
    if front_end == "ddp":
        from tests.support.forked import fork

        fork(RANKS, partial(train, **options), results)
    else:
        launcher = str(Path(sys.executable).parent / "horovodrun")
        own = [sys.executable, __file__, "--rank", str(results), json.dumps(options)]
        variables = {**os.environ, "OMPI_MCA_mpi_yield_when_idle": "1"}
        subprocess.run([launcher, "-np", str(RANKS), *own], check=True, timeout=args.limit, env=variables)
    return [json.loads((results / f"{rank}.json").read_text()) for rank in range(RANKS)]


def main() -> int:
    """Soak each front end and write the figures; or be a rank of Horovod's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--front-end", choices=FRONT_ENDS, action="append", help="default: both, one after the other")
    parser.add_argument("--steps", type=int, default=10_000, help="1000 and more, so that the history is full in time")
    parser.add_argument("--every", type=int, default=100, metavar="STEPS", help="from one note to the next")
    parser.add_argument("--delay", type=float, default=0.002, metavar="SECONDS", help="longest of each wait")
    parser.add_argument("--limit", type=float, default=3 * 3600, metavar="SECONDS", help="for all steps of Horovod's")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--rank", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank:
        train(Path(args.rank[0]), **json.loads(args.rank[1]))
        return 0
    from alq_hvd.machine import describe

    failed = False
    for front_end in args.front_end or FRONT_ENDS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            figures, found = judge(run(front_end, args, Path(directory)))
        figures["seconds"] = round(time.monotonic() - began, 1)
        failed |= bool(found)
        print(f"{front_end}: {RANKS} ranks, {figures['steps']} steps, {figures['seconds']:.0f} s; "
              f"{'; '.join(found) or 'nothing grows, equal weights'}", flush=True)  # fmt: skip
        stored = json.loads(args.output.read_text())["front_ends"] if args.output.exists() else {}
        machine = {name: value for name, value in describe().items() if name != "host"}
        whole = {
            "ranks": RANKS,
            "longest_delay_s": args.delay,
            "front_ends": {**stored, front_end: figures},
            "machine": machine,
        }
        args.output.write_text(json.dumps(whole, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
