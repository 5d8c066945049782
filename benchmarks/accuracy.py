"""What few bits do to accuracy: the demo's training with every method from several seeds, as mean and deviation.

    python benchmarks/accuracy.py [--runs fp32 alq:2 optimal:2:rotate eden:2:feedback ...] [--seeds 0 1 2] [--np 4]

Each run is one ``horovodrun -np 4 python examples/train_images.py ...``, which is printed. A seed gives all methods the
same first weights and the same order of images. Runs that are complete under --records are not repeated, so a benchmark
that was cut goes on; delete them to measure again. Writes benchmarks/results/accuracy.json.
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

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import demo  # noqa: E402
from images.launch import LaunchError, find_horovodrun  # noqa: E402
from images.record import RESULT_FILE  # noqa: E402

RUNS = (
    *("fp32", "alq:3", "alq:2", "optimal:2", "optimal:2:rotate", "eden:2"),
    *("terngrad:2", "terngrad:2:feedback", "optimal:2:rotate:feedback", "eden:2:feedback"),
)
TRAINING = ("np", "train_images", "test_images", "epochs", "batch_size", "bucket_size", "adapt_at")


def main() -> int:
    """Run what is missing, print the table, and write JSON; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=demo.run, nargs="+", default=[demo.run(name) for name in RUNS],
                        metavar=demo.RUN_FORM)  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--np", type=int, default=4, help="number of ranks")
    parser.add_argument("--train-images", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--records", type=Path, default=ROOT / "runs" / "accuracy")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "accuracy.json")
    args = parser.parse_args()
    try:
        find_horovodrun()
        results = {seed: of_seed(seed, args) for seed in args.seeds}
    except LaunchError as error:
        print(f"benchmarks/accuracy.py: {error}", file=sys.stderr)
        return 1
    rows = [row(place, run, results) for place, run in enumerate(args.runs)]
    print(as_text(rows, args.seeds))
    options = training(args)
    described = {name: getattr(options, name) for name in TRAINING}
    args.output.write_text(json.dumps({"training": described, "seeds": args.seeds, "rows": rows}, indent=1) + "\n")
    print(f"kept in {args.output}")
    return 0


def training(args: argparse.Namespace, *more: str) -> argparse.Namespace:
    """Return the demo's options for one training of this benchmark."""
    sizes = ["--np", str(args.np), "--train-images", str(args.train_images), "--epochs", str(args.epochs)]
    return demo.parse_options([*sizes, *more])


def of_seed(seed: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the result of every run from one seed."""
    options = training(args, "--seed", str(seed), "--output", str(args.records / f"seed{seed}"))
    options.runs, options.text_runs = args.runs, []
    return [
        finished(run, options) or demo.train(demo.on_images(run, options), options, place)
        for place, run in enumerate(args.runs, start=1)
    ]


def finished(run: demo.Run, options: argparse.Namespace) -> dict[str, Any] | None:
    """Return the result of a run that an earlier benchmark completed, if there is one of as many epochs."""
    file = options.output / run.label.replace(" ", "-") / RESULT_FILE
    if not file.exists():
        return None
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return result if len(result["accuracy"]) == options.epochs else None


def row(place: int, run: demo.Run, results: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return one method over all seeds; ``against_first`` is the paired difference to the first run of each seed."""
    own = [of_seed[place]["test_accuracy"] for of_seed in results.values()]
    paired = [of_seed[place]["test_accuracy"] - of_seed[0]["test_accuracy"] for of_seed in results.values()]
    return {
        "run": run.label,
        "bytes_per_step": statistics.mean(of_seed[place]["bytes_per_step"] for of_seed in results.values()),
        "test_accuracy": own,
        "mean": statistics.mean(own),
        "standard_error": error_of_mean(own),
        "against_first": statistics.mean(paired),
        "against_first_error": error_of_mean(paired),
    }


def error_of_mean(values: Sequence[float]) -> float:
    """Return the standard error of the mean over seeds; 0 for one seed, which tells nothing of it."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def as_text(rows: Sequence[dict[str, Any]], seeds: Sequence[int]) -> str:
    """Return the table."""
    first = rows[0]["run"]
    width = max(len(own["run"]) for own in rows)
    lines = [f"\ntest accuracy in %, mean and its standard error over seeds {', '.join(map(str, seeds))}",
             f"{'':{width}s}{'bytes a step':>14s}{'accuracy':>18s}{'less ' + first:>20s}"]  # fmt: skip
    for own in rows:
        mean, difference = (
            f"{100 * own[value]:.2f} +- {100 * own[error]:.2f}"
            for value, error in (("mean", "standard_error"), ("against_first", "against_first_error"))
        )
        lines.append(f"{own['run']:{width}s}{own['bytes_per_step']:14,.0f}{mean:>18s}{difference:>20s}")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
