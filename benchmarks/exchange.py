"""What exchanging gradients costs on slow links: stock Horovod and every exchange, side by side, on hosts of their own.

python benchmarks/exchange.py [--case 4:100mbit ...] [--elements 2560000] [--repeats 5]

Needs root: every rank gets a host made of Linux namespaces, with a link that ``tc`` holds to a rate. Bytes are those
of the link's interface counters, with all headers and with what Horovod's ranks tell each other while they wait;
seconds are wall-clock, of a whole reduction. Writes the table as JSON and as a picture to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from alq_hvd.machine import processor  # noqa: E402
from benchmarks.network.hosts import Hosts, HostsUnavailable, bits_per_second, require_hosts  # noqa: E402
from benchmarks.network.launch import JobFailed, run_job, run_torch_job  # noqa: E402
from benchmarks.network.ways import BUCKET, DEFAULTS, WAYS, Constants, planned  # noqa: E402

TIMEOUT = 900
CASES = ("4:100mbit", "8:100mbit", "4:1gbit")
AUTO_CASES = ("4:10mbit", "4:100mbit", "4:1gbit", "4:10gbit", "4:none", "2:none")
CHUNK = 2**17
AUTO_WAYS = ("fp32", "fp32 again", "auto 4")
RESULTS = ROOT / "benchmarks" / "results"


def run_case(case: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure every way in one world and return the rows."""
    count, rate = case.split(":")
    fusion_elements = args.fusion_elements or CHUNK * int(count)
    own = {} if args.default_groups else {"fusion_elements": fusion_elements}
    ways = {way: None if options is None else {**options, **own} for way, options in WAYS.items() if way in args.ways}
    job = {"elements": args.elements, "tensors": args.tensors, "repeats": args.repeats, "ways": ways}
    job["front_end"] = args.front_end
    run = run_torch_job if args.front_end == "ddp" else run_job
    command = [sys.executable, "-m", "benchmarks.network.rank", json.dumps(job)]
    with Hosts(int(count), rate) as hosts:
        outputs = [json.loads(text.splitlines()[-1]) for text in run(hosts, command, TIMEOUT)]
    idle, small = (
        statistics.mean(output[name] for output in outputs)
        for name in ("idle_bytes_per_second", "small_message_seconds")
    )
    constants, calibrated = DEFAULTS, "two_shot 4"
    if calibrated in ways:
        phases = outputs[0]["ways"][calibrated]["phases"]
        constants = Constants.measured(int(count), args.elements, small, phases)
    rows = []
    for way in ways:
        of_ranks = [output["ways"][way] for output in outputs]
        # A reduction is over when the slowest rank has it.
        seconds = [max(times) for times in zip(*(rank["seconds"] for rank in of_ranks), strict=True)]
        plan = planned(way, int(count), rate, args.elements, fusion_elements, constants)
        sent = statistics.mean(rank["bytes"] for rank in of_ranks)
        rows.append({
            "way": way,
            "seconds": statistics.median(seconds),
            "seconds_of_repeats": seconds,
            "over_fp32": over(seconds, rows[0]["seconds_of_repeats"] if rows else seconds),
            "bytes_per_element": sent / args.elements,
            "planned_bytes_per_element": plan and plan.bytes_per_rank / args.elements,
            "planned_seconds": plan and plan.seconds,
            "error": of_ranks[0]["error"],
            **{name: of_ranks[0].get(name) for name in ("exchange", "break_even", "phases")},
        })  # fmt: skip
    return {
        "ranks": int(count),
        "rate": rate,
        "fusion_elements": fusion_elements,
        "idle_bytes_per_second": idle,
        "small_message_seconds": small,
        "planned_with": asdict(constants),
        "rows": rows,
    }


def over(seconds: Sequence[float], stock: Sequence[float]) -> float:
    """Return the median of the ratios, repeat by repeat: neighbours in time, whatever else the machine did."""
    return statistics.median(own / other for own, other in zip(seconds, stock, strict=True))


def as_text(case: dict[str, Any]) -> str:
    """Return the table of one world."""
    by_way = {row["way"]: row["seconds"] for row in case["rows"]}
    lines = [
        f"\n{case['ranks']} ranks, {case['rate']} (Horovod's idle ranks send {case['idle_bytes_per_second'] / 1e3:.0f} "
        "kB/s, counted where a rank waits)",
        f"{'':14s}{'ms':>8s}{'plan':>8s}{'B/element':>11s}{'plan':>9s}{'x fp32':>8s}{'x fp16':>8s}{'error':>10s}"
        f"{'of fp32':>9s}",
    ]
    for row in case["rows"]:
        planned_ms = f"{row['planned_seconds'] * 1e3:.0f}" if row["planned_seconds"] else ""
        planned_bytes = f"{row['planned_bytes_per_element']:.3f}" if row["planned_bytes_per_element"] else ""
        note = f"  {row['exchange']}" if row["way"].startswith("auto") else ""
        than_half = f"{by_way['fp16'] / row['seconds']:8.2f}" if "fp16" in by_way else " " * 8
        lines.append(
            f"{row['way']:14s}{row['seconds'] * 1e3:8.0f}{planned_ms:>8s}"
            f"{row['bytes_per_element']:11.3f}{planned_bytes:>9s}"
            f"{by_way['fp32'] / row['seconds']:8.2f}{than_half}{row['error']:10.2g}{row['over_fp32']:9.1%}{note}"
        )
    return "\n".join(lines)


def machine() -> dict[str, object]:
    """Say what the figures depend on."""
    versions = {name: metadata.version(name) for name in ("horovod", "torch", "numpy")}
    described = {"processor": processor(), "cores": os.cpu_count()}
    return {**described, "load_average": os.getloadavg(), "system": platform.platform(terse=True),
            "python": platform.python_version(), **versions}  # fmt: skip


def picture(result: dict[str, Any], path: Path) -> None:
    """Draw seconds (measured, and what the bytes need at the link's rate) by way, one panel a world."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cases = result["cases"]
    figure, axes = plt.subplots(1, len(cases), figsize=(4.2 * len(cases), 3.6), squeeze=False, layout="constrained")
    for axis, case in zip(axes[0], cases, strict=True):
        rows = case["rows"][::-1]
        axis.barh([row["way"] for row in rows], [row["seconds"] * 1e3 for row in rows], color="#4878a8")
        if case["rate"] != "none":
            rate = bits_per_second(case["rate"])
            wire = [8e3 * row["bytes_per_element"] * result["options"]["elements"] / rate for row in rows]
            axis.plot(wire, range(len(rows)), "k|", markersize=12, label="its bytes at the link's rate")
            axis.legend(fontsize=8)
        axis.set_title(f"{case['ranks']} hosts, {case['rate']} each", fontsize=10)
        axis.set_xlabel("milliseconds to average the gradients")
    figure.savefig(path, dpi=120)


def main() -> int:
    """Measure every case, print the tables, and store JSON and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", metavar="RANKS:RATE", help="such as 4:100mbit, 2:none")
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="default: all; fp32 is always measured")
    parser.add_argument(
        "--auto",
        action="store_true",
        help="whether what auto chooses is ever slower than plain Horovod: by default on "
        f"{', '.join(AUTO_CASES)}, with {', '.join(AUTO_WAYS)}",
    )
    parser.add_argument(
        "--elements", type=int, help="coordinates of all gradients (default: 5.12 million; with --auto a quarter)"
    )
    parser.add_argument("--tensors", type=int, default=10, help="gradients, all of one size")
    parser.add_argument(
        "--fusion-elements",
        type=int,
        help=f"of ours: coordinates that travel together (default: {CHUNK} a rank, 64 kB of 4-bit codes to each peer)",
    )
    parser.add_argument("--default-groups", action="store_true", help="leave fusion groups to the compression")
    parser.add_argument("--front-end", choices=("horovod", "ddp"), default="horovod")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/exchange.json, or exchange-auto.json")
    args = parser.parse_args()
    args.case = args.case or (AUTO_CASES if args.auto else CASES)
    args.ways = ["fp32", *(args.ways or (AUTO_WAYS if args.auto else WAYS))]
    args.elements = args.elements or (1_280_000 if args.auto else 5_120_000)
    args.output = args.output or RESULTS / ("exchange-auto.json" if args.auto else "exchange.json")
    try:
        require_hosts()
    except HostsUnavailable as error:
        print(f"benchmarks/exchange.py: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that hosts are taken away
    options = {name: getattr(args, name) for name in ("elements", "tensors", "repeats")}
    options |= {"bucket_size": BUCKET, "front_end": args.front_end, "default_groups": args.default_groups}
    result: dict[str, Any] = {"machine": machine(), "options": options, "cases": []}
    for case in args.case:
        start = time.monotonic()
        try:
            result["cases"].append(run_case(case, args))
        except (HostsUnavailable, JobFailed) as error:
            print(f"benchmarks/exchange.py: {case}: {error}", file=sys.stderr)
            return 1
        print(as_text(result["cases"][-1]), f"({time.monotonic() - start:.0f} s)", flush=True)
        args.output.write_text(json.dumps(result, indent=1) + "\n")
        picture(result, args.output.with_suffix(".png"))
    print(f"\nkept in {args.output} and {args.output.with_suffix('.png')}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
