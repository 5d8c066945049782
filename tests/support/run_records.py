"""Records of runs as a cluster would leave them: invented numbers, written by the real writer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from alq_hvd.run_record import RunWriter

STEPS = 40
EPOCHS = 4
LEVELS = [-1.0, -0.3, -0.08, -0.02, 0.02, 0.08, 0.3, 1.0]
BYTES_OF_COORDINATE = {"fp32": 4.0, "fp16": 2.0, "alq": 0.76}
SOFTWARE = {"python": "3.11.7", "alq-hvd": "0.1.0", "torch": "2.13.0", "horovod": "0.28.1", "numpy": "2.4.6"}


def result(method: str = "fp32", ranks: int = 4, ranks_per_node: int = 2, **changes: Any) -> dict[str, Any]:
    """Return the fields of a finished run; ``changes`` replace some, ``None`` takes one away."""
    share = 2 * (ranks - 1) / ranks
    parameters = 25_600_000
    sent = round(share / 2 * parameters * BYTES_OF_COORDINATE[method] * (2 if method != "alq" else 1))
    codec = method == "alq" and ranks > 1
    seconds = {
        "compute": 0.8 / ranks + 0.004,
        "encode": 0.006 * codec,
        "exchange": sent / 1.0e9 + 0.001 * math.log2(ranks),
        "decode": 0.005 * codec,
        "adapt": 0.0008 * codec,
    }
    hosts = [f"n{number}" for number in range(1, -(-ranks // ranks_per_node) + 1)]
    fields = {
        "label": method,
        "compression": method,
        "bits": 3 if method == "alq" else None,
        "model": "ResNet-50",
        "parameters": parameters,
        "dataset": "ImageNet",
        "examples": 1_281_167,
        "batch_size": 256,
        "world_size": ranks,
        "steps": STEPS,
        "seed": 0,
        "seconds_per_step": seconds,
        "bytes_per_step": sent,
        "bytes_are": "counted" if method == "alq" else "computed",
        "accuracy": [[epoch, 0.2 + 0.15 * epoch] for epoch in range(1, EPOCHS + 1)],
        "adaptations": _adaptations(1.0) if codec else [],
        "later_shots": [{"bits": 3, "adaptations": _adaptations(1.6)}] if codec else [],
        "exchange": "two_shot" if codec else "none",
        "break_even": {"choice": "two_shot", "seconds": {"fp32": 0.2, "fp16": 0.1, "two_shot": 0.04}}
        if codec
        else None,
        "options": {"method": method, "bits": 3, "bucket_size": 1024, "exchange": "auto", "seed": 0} if codec else {},
        "nodes": [
            {
                "host": host,
                "ranks": list(range(ranks))[ranks_per_node * place : ranks_per_node * (place + 1)],
                "processor": "EPYC 9654",
                "cores": 96,
                "memory_bytes": 2**39,
                "gpus": ["H100"] * ranks_per_node,
                "system": "Linux-6.1",
                "software": dict(SOFTWARE),
            }
            for place, host in enumerate(hosts)
        ],
        "software": dict(SOFTWARE),
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "started": "2026-11-01T10:00:00+00:00",
        "train_seconds": STEPS * sum(seconds.values()) + 3,
        "resumed": [],
        "job": {"SLURM_JOB_ID": "42"},
    }
    return {name: value for name, value in {**fields, **changes}.items() if value is not None}


def write_run(directory: Path, method: str = "fp32", ranks: int = 4, **changes: Any) -> Path:
    """Write a finished run with its events and return its folder."""
    fields = result(method, ranks, **changes)
    writer = RunWriter(directory)
    writer.write("start", label=fields["label"], total_steps=STEPS)
    for step in range(1, STEPS + 1):
        loss = 6 * math.exp(-step / 25) + 0.8 + 0.1 * math.sin(step * ranks) + 0.05 * len(method)
        seconds = {part: value * (1 + 0.1 * math.sin(step)) for part, value in fields["seconds_per_step"].items()}
        writer.write("step", step=step, loss=loss, seconds=seconds)
        if step % (STEPS // EPOCHS) == 0:
            writer.write("epoch", epoch=step * EPOCHS // STEPS, step=step, test_accuracy=0.2 + 0.015 * step)
    writer.close(fields)
    return directory


def write_sweep(
    parent: Path, sizes: tuple[int, ...] = (1, 2, 4), methods: tuple[str, ...] = ("fp32", "fp16", "alq")
) -> Path:
    """Write one run of every method at every size below ``parent`` and return it."""
    for method in methods:
        for ranks in sizes:
            write_run(parent / f"{method}-{ranks}", method, ranks)
    return parent


def _adaptations(wide: float) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    levels = LEVELS
    for number, step in enumerate((0, 9, 20)):
        fitted = [level if abs(level) == 1 else round(wide * level * (0.6 + 0.1 * number), 6) for level in LEVELS]
        accepted = number != 1
        events.append(
            {
                "step": step,
                "accepted": accepted,
                "version": 1,
                "levels_before": levels,
                "levels_after": fitted if accepted else levels,
                "objective_before": 0.004 / (number + 1),
                "objective_after": 0.003 / (number + 1),
                "reason": "" if accepted else "the objective would rise",
            }
        )
        levels = events[-1]["levels_after"]
    return events
