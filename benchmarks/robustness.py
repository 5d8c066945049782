"""Do few bits need other settings? The same training at several batch sizes and momenta, fp32 beside ours.

    python benchmarks/robustness.py [--ways fp32 alq:3 eden:2] [--batches 4 16 64] [--momenta 0 0.9 0.98]

Four ranks train the demo's network. Along batch sizes momentum is 0.9; along momenta a rank sees 16 images a step. The
learning rate starts at RATE (1 - momentum), so that a gradient's total effect stays the same, and falls to 0 in a
straight line. No rate is tuned. Runs under --records are not repeated.
Writes benchmarks/results/robustness.json and .png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.network.launch import JobFailed  # noqa: E402
from benchmarks.training.launch import last_losses, outcome, store  # noqa: E402
from benchmarks.training.ways import FORM, Way  # noqa: E402

RANKS = 4
BATCH, MOMENTUM = 16, 0.9
RATE = 0.5
"""Learning rate without momentum."""


def main() -> int:
    """Run what is missing, print the table, store JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", default=["fp32", "alq:3", "eden:2"], metavar="WAY", help=FORM)
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 16, 64], help="images a rank and step")
    parser.add_argument("--momenta", type=float, nargs="+", default=[0.0, 0.9, 0.98])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--records", type=Path, default=ROOT / "runs" / "robustness")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "robustness.json")
    args = parser.parse_args()
    try:
        for way in args.ways:
            Way.parse(way)
        rows = [trained(way, batch, momentum, args) for batch, momentum in settings(args) for way in args.ways]
    except (ValueError, JobFailed) as error:
        print(f"benchmarks/robustness.py: {error}", file=sys.stderr)
        return 1
    print(as_text(rows))
    training = {"task": "images", "ranks": RANKS, "steps": args.steps, "rate": RATE, "seeds": args.seeds}
    picture(rows, args.output.with_suffix(".png"))
    store(training, rows, args.output)
    return 0


def settings(args: argparse.Namespace) -> Iterator[tuple[int, float]]:
    """Yield batch size and momentum of every setting, each once."""
    crossed = [(batch, MOMENTUM) for batch in args.batches] + [(BATCH, momentum) for momentum in args.momenta]
    yield from dict.fromkeys(crossed)


def trained(way: str, batch: int, momentum: float, args: argparse.Namespace) -> dict[str, Any]:
    """Return the losses of one way at one setting."""
    rate = round(RATE * (1 - momentum), 6)

    def run(seed: int) -> dict[str, Any]:
        job = {"task": "images", "ways": [way], "seed": seed, "steps": args.steps, "batch": batch, "every": args.steps}
        job |= {"exchange": "two_shot", "decay": True, "optimizer": {"lr": rate, "momentum": momentum}}
        name = f"{way.replace(':', '-')}-batch-{batch}-momentum-{momentum}-{args.steps}-steps-seed-{seed}"
        return outcome(job, RANKS, args.records / f"{name}.json")

    losses = last_losses([run(seed) for seed in args.seeds])
    return {"way": way, "batch": batch, "momentum": momentum, "rate": rate, **losses}


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table."""
    lines = [f"\n{'':12s}{'batch':>7s}{'momentum':>10s}{'rate':>8s}{'validation loss':>20s}"]
    for own in rows:
        loss = f"{own['mean']:.4f} +- {own['standard_error']:.4f}"
        lines.append(f"{own['way']:12s}{own['batch']:7d}{own['momentum']:10g}{own['rate']:8g}{loss:>20s}")
    return "\n".join(lines)


def picture(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw loss along batch sizes, and along momenta."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3.4), layout="constrained", sharey=True)
    ways = list(dict.fromkeys(own["way"] for own in rows))
    for axis, key, fixed in ((left, "batch", ("momentum", MOMENTUM)), (right, "momentum", ("batch", BATCH))):
        for place, way in enumerate(ways):
            own = sorted((r for r in rows if r["way"] == way and r[fixed[0]] == fixed[1]), key=lambda row: row[key])
            along = [place / 15 + index for index in range(len(own))]
            losses, errors = ([row[name] for row in own] for name in ("mean", "standard_error"))
            axis.errorbar(along, losses, yerr=errors, marker="o", capsize=3, label=way)
            axis.set_xticks(range(len(own)), [f"{row[key]:g}" for row in own])
        axis.grid(alpha=0.3)
    left.set_xlabel(f"images a rank and step, momentum {MOMENTUM:g}")
    right.set_xlabel(f"momentum, {BATCH} images a rank and step")
    left.set_ylabel("validation loss")
    left.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    raise SystemExit(main())
