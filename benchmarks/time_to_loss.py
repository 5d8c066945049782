"""How long training takes to the same loss on slow links: fp32, fp16, ours and PowerSGD, all as DDP's hooks.

    sudo python benchmarks/time_to_loss.py [--rates 100mbit 1gbit] [--ways fp32 fp16 eden:2 ...] [--steps 150]

Every rank has a host of Linux namespaces whose link ``tc`` holds to a rate, and trains the small language model of
``benchmarks/language_model.py``. Seconds are of steps, without validation; several ranks share this machine's cores, so
that a step computes for longer than on hosts of their own. Writes benchmarks/results/time-to-loss.json and .png.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from alq_hvd.machine import describe  # noqa: E402
from benchmarks.network.hosts import Hosts, HostsUnavailable, require_hosts  # noqa: E402
from benchmarks.network.launch import JobFailed, run_torch_job  # noqa: E402
from benchmarks.training.ways import FORM, Way  # noqa: E402

WAYS = ("fp32", "fp16", "alq:4", "eden:2", "eden:1:adaptive", "powersgd:4", "powersgd:16")
BATCH = 4
TIMEOUT = 3000
RESULT = ROOT / "benchmarks" / "results" / "time-to-loss.json"


def main() -> int:
    """Train on every link, print the tables, store JSON and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", nargs="+", default=["100mbit", "1gbit"], help="of a host's link, as tc writes them")
    parser.add_argument(
        "--ways", nargs="+", default=list(WAYS), metavar="WAY", help=f"{FORM}; the first is compared with"
    )
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULT)
    args = parser.parse_args()
    try:
        require_hosts()
        for way in args.ways:
            Way.parse(way)
    except (HostsUnavailable, ValueError) as error:
        print(f"benchmarks/time_to_loss.py: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that hosts are taken away
    machine = {**describe(), "load_average": os.getloadavg()}
    machine.pop("host", None)
    described = {"ranks": args.ranks, "steps": args.steps, "batch": BATCH, "seed": args.seed, "task": "text"}
    result: dict[str, Any] = {"machine": machine, "training": described, "links": []}
    for rate in args.rates:
        try:
            result["links"].append({"rate": rate, "rows": trained(rate, args)})
        except (HostsUnavailable, JobFailed) as error:
            print(f"benchmarks/time_to_loss.py: {rate}: {error}", file=sys.stderr)
            return 1
        print(as_text(result["links"][-1]), flush=True)
        args.output.write_text(json.dumps(result, indent=1) + "\n")
        picture(result, args.output.with_suffix(".png"))
    print(f"\nkept in {args.output} and {args.output.with_suffix('.png')}")
    return 0


def trained(rate: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row a way: its curve, bytes, and seconds to the loss that all ways reach."""
    job = {"task": "text", "ways": args.ways, "seed": args.seed, "steps": args.steps, "batch": BATCH,
           "exchange": "two_shot", "every": max(args.steps // 15, 1)}  # fmt: skip
    command = [sys.executable, str(ROOT / "benchmarks" / "training" / "rank.py"), json.dumps(job)]
    with Hosts(args.ranks, rate) as hosts:
        outputs = [json.loads(text.splitlines()[-1]) for text in run_torch_job(hosts, command, TIMEOUT)]
    rows: list[dict[str, Any]] = []
    for way in args.ways:
        of_ranks = [output[way] for output in outputs]
        if len({each["digest"] for each in of_ranks}) != 1:
            raise JobFailed(f"{way}: expected equal weights on all ranks, got others")
        rows.append({"way": way, "bytes_per_step": of_ranks[0]["bytes_per_step"], "curve": of_ranks[0]["curve"]})
    common = max(min(point["loss"] for point in row["curve"]) for row in rows)
    for row in rows:
        row["common_loss"], row["seconds_to_common_loss"] = common, seconds_to(common, row["curve"])
        row["step_seconds"] = row["curve"][-1]["seconds"] / args.steps
        row["times_as_fast"] = rows[0]["seconds_to_common_loss"] / row["seconds_to_common_loss"]
    return rows


def seconds_to(loss: float, curve: Sequence[dict[str, float]]) -> float:
    """Return when the best loss so far first reached ``loss``, on the line between two points of the curve."""
    best = np.minimum.accumulate([point["loss"] for point in curve])
    seconds = [point["seconds"] for point in curve]
    return float(np.interp(-loss, -best, seconds))


def as_text(link: dict[str, Any]) -> str:
    """Return the table of one link."""
    rows = link["rows"]
    width = max(len(row["way"]) for row in rows)
    headings = ("kB a step", "ms a step", "final loss", "seconds", "faster")
    lines = [
        f"\n{link['rate']}: to a validation loss of {rows[0]['common_loss']:.3f}",
        f"{'':{width}s}" + "".join(f"{heading:>12s}" for heading in headings),
    ]
    for row in rows:
        lines.append(
            f"{row['way']:{width}s}{row['bytes_per_step'] / 1e3:12,.0f}{row['step_seconds'] * 1e3:12.0f}"
            f"{row['curve'][-1]['loss']:12.3f}{row['seconds_to_common_loss']:12.1f}{row['times_as_fast']:12.2f}"
        )
    return "\n".join(lines)


def picture(result: dict[str, Any], path: Path) -> None:
    """Draw loss against seconds, one panel a link."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    links = result["links"]
    figure, axes = plt.subplots(1, len(links), figsize=(5.2 * len(links), 3.8), squeeze=False, layout="constrained")
    for axis, link in zip(axes[0], links, strict=True):
        for row in link["rows"]:
            curve = row["curve"]
            axis.plot(
                [each["seconds"] for each in curve], [each["loss"] for each in curve], label=row["way"], marker="."
            )
        axis.set_title(f"{result['training']['ranks']} hosts, {link['rate']} each", fontsize=10)
        axis.set_xlabel("seconds of training")
        axis.set_ylabel("validation loss")
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    raise SystemExit(main())
