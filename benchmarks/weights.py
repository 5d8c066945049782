"""Quantised weights measured: the experiments of Hou et al. and of MetaQuant in kind, and what a step costs.

    python benchmarks/weights.py [--quick] [--only linear wire meta cost] [--seeds 0 1 2]

linear: the linear model of Hou et al., floor and speed. wire: weight bits by gradient bits by clipping, two networks on
scikit-learn's digits, two simulated ranks. meta: MetaQuant from a pretrained network, beside STE with tuned rates.
cost: processor time of a step. Means and standard errors over seeds. What --only leaves out stays as it was stored.
Writes benchmarks/results/weights.json and weights.png.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from quantised import cost, digits, linear

from alq_hvd import machine

RESULTS = Path(__file__).parent / "results"
PARTS = ("linear", "wire", "meta", "cost")
MEASURED = {"linear": ("first", "last"), "wire": ("early_loss", "last_loss", "accuracy"), "meta": ("accuracy", "start")}
ALONE = "lstmfc"
"""Runs from the first seed only: its steps take tens of times as long."""


def main() -> int:
    """Run what is asked for, print the tables, store them and draw them; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, to see that it works")
    parser.add_argument("--linear-steps", type=int, default=5000)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--epochs", type=int, default=15, help="of the digits over the wire")
    parser.add_argument("--meta-epochs", type=int, default=20)
    parser.add_argument("--output", type=Path, default=RESULTS / "weights.json")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.dimensions, args.linear_steps, args.epochs, args.meta_epochs = args.seeds[:1], [16], 100, 1, 1
        if args.output == parser.get_default("output"):
            args.output = Path("weights-quick.json")
    torch.set_num_threads(1)
    stored = json.loads(args.output.read_text()) if args.output.exists() else {}
    made = {"linear": run_linear, "wire": run_wire, "meta": run_meta, "cost": run_cost}
    for part in args.only:
        rows = made[part](args)
        stored[part] = summary(rows, MEASURED[part]) if part in MEASURED else rows
        stored.setdefault("machine", {})[part] = {"processor": machine.processor(), "torch": torch.__version__}
        print(f"\n{part}\n{as_text(stored[part])}", flush=True)
        args.output.write_text(json.dumps(stored, indent=1) + "\n")
    if {"linear", "wire"} <= stored.keys():
        from quantised.picture import draw

        draw(stored, args.output.with_suffix(".png"))
    print(f"kept in {args.output}")
    return 0


def run_linear(args: argparse.Namespace) -> list[dict[str, Any]]:
    return [
        {**linear.run(*case, dimension, args.linear_steps, seed), "steps": args.linear_steps}
        for dimension in args.dimensions
        for case in linear.CASES
        for seed in args.seeds
    ]


def run_wire(args: argparse.Namespace) -> list[dict[str, Any]]:
    data = digits.Digits()
    return [
        digits.over_the_wire(data, architecture, weights, wire, seed, args.epochs)
        for architecture in digits.ARCHITECTURES
        for weights in digits.WEIGHTS
        for wire in digits.WIRES
        for seed in args.seeds
    ]


def run_meta(args: argparse.Namespace) -> list[dict[str, Any]]:
    data = digits.Digits()
    rows = []
    for seed in args.seeds:
        start = digits.pretrained(data, seed, args.meta_epochs)
        cases = [case for case in digits.META if case[1] != ALONE or seed == args.seeds[0]]
        rows += [digits.meta(data, start, case, seed, args.meta_epochs) for case in cases]
    return rows


def run_cost(args: argparse.Namespace) -> list[dict[str, Any]]:
    batch, steps = (4, 4) if args.quick else (32, 20)
    rows = [cost.run(case, batch, steps) for case in (None, *cost.CASES)]
    for row in rows:  # whole steps are too noisy to be subtracted from each other
        row["extra_ms"] = row["optimizer_ms"] - rows[0]["optimizer_ms"] + row["read_ms"]
        row["of_plain_step"] = row["extra_ms"] / rows[0]["step_ms"]
    for row in rows:
        row["more_than_bwn_ms"] = row["extra_ms"] - rows[1]["extra_ms"]
    return rows


def summary(rows: Sequence[dict[str, Any]], measured: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row a case: means over seeds, and their standard errors."""
    cases: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        case = {name: value for name, value in row.items() if name not in (*measured, "seed")}
        cases.setdefault(json.dumps(case), []).append(row)
    found = []
    for case, own in cases.items():
        one: dict[str, Any] = {**json.loads(case), "seeds": len(own)}
        for name in measured:
            values = [row[name] for row in own]
            error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
            one |= {name: statistics.mean(values), f"{name}_error": error}
        found.append(one)
    return found


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    names = list(rows[0])
    cells = [[f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in [names, *cells]
    )


if __name__ == "__main__":
    raise SystemExit(main())
