"""The same training for fewer bytes: loss against bytes on the wire, ours beside fp32, fp16 and PowerSGD, under DDP.

    python benchmarks/frontier.py [--task text|images] [--ways fp32 alq:3 eden:2 powersgd:4 ...] [--seeds 0 1 2]

Four ranks of this machine train the same model from the same seeds over Gloo. Bytes of ours and PowerSGD are counted
(those of a step, averaged over the training), the others' follow from the ring formula. Runs under --records are not
repeated, so a benchmark that was cut goes on. Writes benchmarks/results/frontier-TASK.json and .png.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.network.launch import JobFailed  # noqa: E402
from benchmarks.training.launch import last_losses, outcome, store  # noqa: E402
from benchmarks.training.ways import FORM, Way  # noqa: E402

RANKS = 4
WAYS = (
    *("fp32", "fp16", "alq:3", "alq:2", "eden:3", "eden:2", "eden:1"),
    *(f"eden:{bits}:adaptive" for bits in ("3", "2", "1.5", "1", "0.75")),
    *("optimal:2:adaptive", "optimal:1:adaptive"),
    *("powersgd:1", "powersgd:4", "powersgd:16"),
)
STEPS = {"text": 200, "images": 600}
BATCH = {"text": 4, "images": 32}


def main() -> int:
    """Run what is missing, print the table, store JSON and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(STEPS), default="text")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), metavar="WAY", help=FORM)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="default: " + ", ".join(f"{STEPS[task]} of {task}" for task in STEPS))
    parser.add_argument("--records", type=Path, default=ROOT / "runs" / "frontier")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/frontier-TASK.json")
    args = parser.parse_args()
    steps = args.steps or STEPS[args.task]
    output = args.output or ROOT / "benchmarks" / "results" / f"frontier-{args.task}.json"
    try:
        for way in args.ways:
            Way.parse(way)
        runs = [{way: run(way, seed, args.task, steps, args.records) for way in args.ways} for seed in args.seeds]
    except (ValueError, JobFailed) as error:
        print(f"benchmarks/frontier.py: {error}", file=sys.stderr)
        return 1
    rows = [row(way, [of_seed[way] for of_seed in runs]) for way in args.ways]
    print(as_text(rows, args.seeds))
    described = {"task": args.task, "ranks": RANKS, "steps": steps, "batch": BATCH[args.task], "seeds": args.seeds}
    picture(rows, args.task, output.with_suffix(".png"))
    store(described, rows, output)
    return 0


def run(way: str, seed: int, task: str, steps: int, records: Path) -> dict[str, Any]:
    """Return the outcome of one training, from the records if it is there.

    Raises:
        JobFailed: a rank failed, or ranks ended with other weights.
    """
    file = records / f"{task}-{steps}-{way.replace(':', '-')}-{seed}.json"
    job = {"task": task, "ways": [way], "seed": seed, "steps": steps, "batch": BATCH[task], "exchange": "two_shot"}
    job["every"] = max(steps // 10, 1)
    return outcome(job, RANKS, file)


def row(way: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one way over all seeds."""
    sent = statistics.mean(each["bytes_per_step"] for each in runs)
    ring = 2 * (RANKS - 1) / RANKS
    return {
        "way": way,
        "bytes_per_step": sent,
        "bits_per_coordinate": 8 * sent / ring / runs[0]["parameters"],
        **last_losses(runs),
    }


def as_text(rows: Sequence[dict[str, Any]], seeds: Sequence[int]) -> str:
    """Return the table; bits a coordinate are those of an all-reduce that would send as many bytes."""
    width = max(len(own["way"]) for own in rows)
    lines = [f"\nvalidation loss, mean and its standard error over seeds {', '.join(map(str, seeds))}",
             f"{'':{width}s}{'bytes a step':>14s}{'bits':>8s}{'loss':>20s}"]  # fmt: skip
    for own in sorted(rows, key=lambda each: -each["bytes_per_step"]):
        loss = f"{own['mean']:.4f} +- {own['standard_error']:.4f}"
        lines.append(f"{own['way']:{width}s}{own['bytes_per_step']:14,.0f}{own['bits_per_coordinate']:8.2f}{loss:>20s}")
    return "\n".join(lines)


def picture(rows: Sequence[dict[str, Any]], task: str, path: Path) -> None:
    """Draw loss against bits a coordinate, with fp32's band."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    families = {"our uniform widths": [], "our adaptive widths": [], "PowerSGD": [], "the host's own": []}  # type: ignore[var-annotated]
    for own in rows:
        way = Way.parse(own["way"])
        ours = "our adaptive widths" if way.options.get("widths") else "our uniform widths"
        host = "PowerSGD" if way.host == "powersgd" else "the host's own"
        families[host if way.host else ours].append(own)
    for family, members in families.items():
        if members:
            members.sort(key=lambda each: each["bits_per_coordinate"])
            bits, losses, errors = (
                [each[key] for each in members] for key in ("bits_per_coordinate", "mean", "standard_error")
            )
            axis.errorbar(bits, losses, yerr=errors, fmt="o", label=family, capsize=2)
            for each in members:
                # Points of one size lie close together: every family has its own side for names.
                aside, above, align = {
                    "our uniform widths": (-6, -3, "right"),
                    "our adaptive widths": (4, 6, "left") if each["way"].startswith("optimal") else (-5, -11, "right"),
                }.get(family, (5, 4, "left"))
                axis.annotate(
                    each["way"].removesuffix(":adaptive"),
                    (each["bits_per_coordinate"], each["mean"]),
                    xytext=(aside, above),
                    textcoords="offset points",
                    ha=align,
                    fontsize=7,
                )
    for own in rows:
        if own["way"] == "fp32":
            axis.axhspan(own["mean"] - own["standard_error"], own["mean"] + own["standard_error"], alpha=0.15)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.margins(x=0.12)
    axis.set_xlabel("bits a coordinate, all bytes counted")
    axis.set_ylabel(f"validation loss ({task})")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    raise SystemExit(main())
