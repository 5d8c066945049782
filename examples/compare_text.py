"""Compare finished runs of ``train_text.py``: ``python examples/compare_text.py runs/text/*``.

Prints one table, and draws validation loss against bytes sent so far into one picture.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alq_hvd.run_record import RESULT_FILE


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and draw the picture; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--picture", type=Path, default=Path("runs") / "text.png", help="(default: runs/text.png)")
    options = parser.parse_args(arguments)
    results = []
    for run in options.runs:
        try:
            result = json.loads((run / RESULT_FILE).read_text(encoding="utf-8"))
        except OSError as error:
            print(f"compare_text.py: error: {run}: expected a finished run: {error.strerror}", file=sys.stderr)
            return 2
        if "validation_loss" not in result:
            print(f"compare_text.py: error: {run}: expected a run of train_text.py, got another", file=sys.stderr)
            return 2
        results.append(result)
    results.sort(key=lambda result: -result["bytes_per_step"])
    print(table(results))
    draw(results, options.picture)
    print(f"\npicture: {options.picture.resolve()}")
    return 0


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return one line a run, most bytes first."""
    width = max(len(result["label"]) for result in results)
    most = results[0]["bytes_per_step"]
    lines = [f"{'':{width}s}{'kB a step':>12s}{'fewer':>9s}{'steps':>8s}{'validation loss':>18s}"]
    for own in results:
        sent = own["bytes_per_step"]
        fewer = f"{most / sent:.1f} x" if sent else "-"
        loss = own["validation_loss"][-1][1]
        lines.append(f"{own['label']:{width}s}{sent / 1e3:12,.0f}{fewer:>9s}{own['steps']:8d}{loss:18.3f}")
    return "\n".join(lines)


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw validation loss against megabytes sent by a rank so far."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for own in results:
        megabytes = [step * own["bytes_per_step"] / 1e6 for step, _ in own["validation_loss"]]
        axes.plot(megabytes, [loss for _, loss in own["validation_loss"]], marker="o", markersize=4, label=own["label"])
    axes.set_xscale("log")
    axes.set_xlabel("MB sent by a rank so far")
    axes.set_ylabel("validation loss")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
