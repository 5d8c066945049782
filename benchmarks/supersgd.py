"""One worker or four: SGD, SuperSGD (fp32 means of four workers) and compressed means, each at its own learning rate.

    python benchmarks/supersgd.py [--steps 160] [--rates 0.05 0.1 0.2] [--seeds 0 1 2]

Every worker sees the same number of images a step, so that at equal steps four workers see four times as many; at equal
epochs they take a quarter of the steps. Learning rates fall to 0 in a straight line. Every contestant trains from all
seeds at every rate, and is shown at the rate with the least mean validation loss: one seed alone may choose a rate at
which others fail. Runs under --records are not repeated. Writes benchmarks/results/supersgd.json and .png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.network.launch import JobFailed  # noqa: E402
from benchmarks.training.launch import last_losses, outcome, store  # noqa: E402

WORKERS = 4
BATCH = 16
MOMENTUM = 0.9


@dataclass(frozen=True)
class Arm:
    """Name one contestant: ``share`` of the steps that SGD takes, by ``ranks`` workers that average in the ``way``."""

    name: str
    way: str
    ranks: int
    share: float


ARMS = (
    Arm("SGD", "fp32", 1, 1),
    Arm("SuperSGD, equal steps", "fp32", WORKERS, 1),
    Arm("ALQ 3 bits, equal steps", "alq:3", WORKERS, 1),
    Arm("SuperSGD, equal epochs", "fp32", WORKERS, 1 / WORKERS),
    Arm("ALQ 3 bits, equal epochs", "alq:3", WORKERS, 1 / WORKERS),
)


def main() -> int:
    """Tune and run what is missing, print the table, store JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=160, help="of SGD")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.05, 0.1, 0.2], metavar="RATE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--records", type=Path, default=ROOT / "runs" / "supersgd")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "supersgd.json")
    args = parser.parse_args()
    try:
        rows = [contest(arm, args) for arm in ARMS]
    except JobFailed as error:
        print(f"benchmarks/supersgd.py: {error}", file=sys.stderr)
        return 1
    print(as_text(rows))
    training = {"task": "images", "batch_a_worker": BATCH, "momentum": MOMENTUM, "rates": args.rates}
    training["seeds"] = args.seeds
    picture(rows, args.output.with_suffix(".png"))
    store(training, rows, args.output)
    return 0


def contest(arm: Arm, args: argparse.Namespace) -> dict[str, Any]:
    """Return the losses of one arm at the rate that suits it."""
    steps = round(arm.share * args.steps)

    def run(rate: float, seed: int) -> dict[str, Any]:
        job = {"task": "images", "ways": [arm.way], "seed": seed, "steps": steps, "batch": BATCH, "every": steps}
        job |= {"exchange": "two_shot", "decay": True, "optimizer": {"lr": rate, "momentum": MOMENTUM}}
        name = f"{arm.way.replace(':', '-')}-{arm.ranks}-ranks-{steps}-steps-rate-{rate}-seed-{seed}"
        return outcome(job, arm.ranks, args.records / f"{name}.json")

    tuning = {rate: last_losses([run(rate, seed) for seed in args.seeds]) for rate in args.rates}
    best = min(tuning, key=lambda rate: float(tuning[rate]["mean"]))
    return {
        "arm": arm.name,
        "workers": arm.ranks,
        "steps": steps,
        "images": steps * arm.ranks * BATCH,
        "tuning": {str(rate): found["mean"] for rate, found in tuning.items()},
        "rate": best,
        **tuning[best],
    }


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table."""
    lines = [f"\n{'':26s}{'steps':>7s}{'images':>9s}{'rate':>8s}{'validation loss':>20s}"]
    for own in rows:
        loss = f"{own['mean']:.4f} +- {own['standard_error']:.4f}"
        lines.append(f"{own['arm']:26s}{own['steps']:7d}{own['images']:9,d}{own['rate']:8g}{loss:>20s}")
    return "\n".join(lines)


def picture(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a bar for each contestant."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 3), layout="constrained")
    colours = ["#8a929c" if own["workers"] == 1 else "#d8602a" if "ALQ" in own["arm"] else "#3f8fc4" for own in rows]
    names = [own["arm"] for own in rows]
    axis.barh(
        names, [own["mean"] for own in rows], xerr=[own["standard_error"] for own in rows], color=colours, capsize=3
    )
    axis.invert_yaxis()
    axis.set_xlabel("validation loss, mean and standard error over seeds")
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    raise SystemExit(main())
