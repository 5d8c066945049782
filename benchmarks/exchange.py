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
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from alq_hvd.planning.cost import (  # noqa: E402
    CodecSpeed,
    Cost,
    Link,
    World,
    allgather,
    allreduce,
    messages_of,
    two_shot,
)
from benchmarks.network.hosts import Hosts, HostsUnavailable, bits_per_second, require_hosts  # noqa: E402
from benchmarks.network.launch import JobFailed, run_job  # noqa: E402

BUCKET = 1024
LATENCY, SPEED = 25e-6, 1e9
"""What ``alq-hvd plan`` takes by default: seconds of a message, coordinates a second of the codec."""
TIMEOUT = 400
CASES = ("4:100mbit", "8:100mbit", "4:1gbit")


def ours(exchange: str, bits: Any, **more: Any) -> dict[str, Any]:
    """Return the options of one way of ours: levels that do not adapt, so that nothing but gradients is sent."""
    return {"method": "qsgdinf", "bits": bits, "bucket_size": BUCKET, "exchange": exchange, "schedule": [], **more}


WAYS: dict[str, dict[str, Any] | None] = {
    "fp32": None,
    "fp16": None,
    "allgather 4": ours("allgather", 4),
    "allgather 3": ours("allgather", 3),
    "two_shot 4": ours("two_shot", 4),
    "two_shot 3": ours("two_shot", 3),
    "two_shot 4,8": ours("two_shot", [4, 8]),
    "auto 4": ours("auto", 4, break_even=True),
}


def planned(way: str, ranks: int, rate: str, args: argparse.Namespace) -> Cost | None:
    """Return what ``alq-hvd plan`` predicts, without headers and padding; ``None`` where the way is not yet chosen."""
    kind, _, widths = way.partition(" ")
    link = Link(bits_per_second(rate) if rate != "none" else float("inf"), LATENCY)
    world, messages = World(ranks, 1, link, link), messages_of(args.elements, args.fusion_elements)
    if kind in ("fp32", "fp16"):
        return allreduce(world, args.elements, 4 if kind == "fp32" else 2, messages)
    bits = [int(width) for width in widths.split(",")]
    costs = {"allgather": allgather, "two_shot": two_shot}
    if kind not in costs:
        return None
    return costs[kind](world, args.elements, bits * (3 - len(bits)), BUCKET, CodecSpeed(SPEED, SPEED), messages)


def run_case(case: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure every way in one world and return the rows."""
    count, rate = case.split(":")
    own = {"fusion_elements": args.fusion_elements}
    ways = {way: None if options is None else {**options, **own} for way, options in WAYS.items() if way in args.ways}
    job = {"elements": args.elements, "tensors": args.tensors, "repeats": args.repeats, "ways": ways}
    command = [sys.executable, "-m", "benchmarks.network.rank", json.dumps(job)]
    with Hosts(int(count), rate) as hosts:
        outputs = [json.loads(text.splitlines()[-1]) for text in run_job(hosts, command, TIMEOUT)]
    idle = statistics.mean(output["idle_bytes_per_second"] for output in outputs)
    rows = []
    for way in ways:
        of_ranks = [output["ways"][way] for output in outputs]
        # A reduction is over when the slowest rank has it.
        seconds = [max(times) for times in zip(*(rank["seconds"] for rank in of_ranks), strict=True)]
        plan = planned(way, int(count), rate, args)
        sent = statistics.mean(rank["bytes"] for rank in of_ranks)
        rows.append({
            "way": way,
            "seconds": statistics.median(seconds),
            "seconds_of_repeats": seconds,
            "bytes_per_element": sent / args.elements,
            "planned_bytes_per_element": plan and plan.bytes_per_rank / args.elements,
            "planned_seconds": plan and plan.seconds,
            "error": of_ranks[0]["error"],
            **{name: of_ranks[0].get(name) for name in ("exchange", "break_even", "phases")},
        })  # fmt: skip
    return {"ranks": int(count), "rate": rate, "idle_bytes_per_second": idle, "rows": rows}


def as_text(case: dict[str, Any]) -> str:
    """Return the table of one world."""
    by_way = {row["way"]: row["seconds"] for row in case["rows"]}
    lines = [
        f"\n{case['ranks']} ranks, {case['rate']} (Horovod's idle ranks send {case['idle_bytes_per_second'] / 1e3:.0f} "
        "kB/s, counted where a rank waits)",
        f"{'':14s}{'ms':>8s}{'plan':>8s}{'B/element':>11s}{'plan':>9s}{'x fp32':>8s}{'x fp16':>8s}{'error':>10s}",
    ]
    for row in case["rows"]:
        planned_ms = f"{row['planned_seconds'] * 1e3:.0f}" if row["planned_seconds"] else ""
        planned_bytes = f"{row['planned_bytes_per_element']:.3f}" if row["planned_bytes_per_element"] else ""
        note = f"  {row['exchange']}" if row["way"].startswith("auto") else ""
        lines.append(
            f"{row['way']:14s}{row['seconds'] * 1e3:8.0f}{planned_ms:>8s}"
            f"{row['bytes_per_element']:11.3f}{planned_bytes:>9s}"
            f"{by_way['fp32'] / row['seconds']:8.2f}{by_way['fp16'] / row['seconds']:8.2f}{row['error']:10.2g}{note}"
        )
    return "\n".join(lines)


def machine() -> dict[str, object]:
    """Say what the figures depend on."""
    models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
              if line.startswith("model name")]  # fmt: skip
    versions = {name: metadata.version(name) for name in ("horovod", "torch", "numpy")}
    described = {"processor": models[0] if models else platform.processor(), "cores": os.cpu_count()}
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
    parser.add_argument(
        "--case", nargs="+", default=list(CASES), metavar="RANKS:RATE", help="such as 4:100mbit, 2:none"
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default: all; fp32 and fp16 first")
    parser.add_argument("--elements", type=int, default=2_560_000, help="coordinates of all gradients together")
    parser.add_argument("--tensors", type=int, default=10, help="gradients, all of one size")
    parser.add_argument("--fusion-elements", type=int, default=2**22, help="of ours: coordinates that travel together")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "exchange.json")
    args = parser.parse_args()
    try:
        require_hosts()
    except HostsUnavailable as error:
        print(f"benchmarks/exchange.py: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that hosts are taken away
    options = {name: getattr(args, name) for name in ("elements", "tensors", "fusion_elements", "repeats")}
    options["bucket_size"] = BUCKET
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
