"""Measure every figure of the evidence page again, one program after another, and write the page: ``make evidence``.

    python benchmarks/rerun.py [--list] [--only supersgd rate ...] [--afresh]

A program that has finished under --records is not run again, so a run that was cut goes on; ``--afresh`` forgets all of
that. Programs that need root are left out for other users, with a line that says it. A program that fails does not stop
the others; the page is written from what results there are. Minutes are those of a quiet machine of two cores.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Rerun:
    """Name one program.

    Attributes:
        arguments: of Python, in the checkout.
        results: what it writes to ``benchmarks/results/``, without ``.json``.
        minutes: to be expected, roughly.
        needs_root: for namespaces and shaped links.
        records: folder under ``runs/`` in which it keeps runs that it would not repeat.
    """

    arguments: str
    results: tuple[str, ...]
    minutes: int
    needs_root: bool = False
    records: str = ""

    @property
    def name(self) -> str:
        """Return what ``--only`` calls it."""
        return self.results[0]


RERUNS = (
    Rerun("benchmarks/buckets.py", ("buckets",), 1),
    Rerun("benchmarks/levels.py", ("levels",), 5),
    Rerun("benchmarks/rate.py", ("rate",), 5),
    Rerun(
        "benchmarks/simulated.py --ranks 4 8 16 32 64 --elements 131072 --bucket-size 16384 "
        "--ways published one-shot two-shots --methods qsgdinf nuqsgd alq alq_n amq amq_n optimal "
        "--output benchmarks/results/simulated-methods.json",
        ("simulated-methods",), 2,
    ),
    Rerun("benchmarks/adaptation.py", ("adaptation",), 10),
    Rerun("benchmarks/robustness.py", ("robustness",), 10, records="robustness"),
    Rerun("benchmarks/supersgd.py", ("supersgd",), 15, records="supersgd"),
    Rerun("benchmarks/exchange.py", ("exchange",), 15, needs_root=True),
    Rerun(
        "benchmarks/exchange.py --front-end ddp --default-groups "
        "--output benchmarks/results/exchange-defaults-ddp.json",
        ("exchange-defaults-ddp",), 10, needs_root=True,
    ),
    Rerun(
        "benchmarks/exchange.py --default-groups --output benchmarks/results/exchange-defaults-horovod.json",
        ("exchange-defaults-horovod",), 10, needs_root=True,
    ),
    Rerun("benchmarks/time_to_loss.py", ("time-to-loss",), 20, needs_root=True),
    Rerun("benchmarks/frontier.py --task text", ("frontier-text",), 60, records="frontier"),
    Rerun("benchmarks/accuracy.py", ("accuracy",), 60, records="accuracy"),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, then write the page; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [each.name for each in RERUNS]
    parser.add_argument("--list", action="store_true", help="only say what would run, and for how long")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--afresh", action="store_true", help="repeat also what has finished")
    parser.add_argument("--records", type=Path, default=ROOT / "runs", help="folder for what has finished")
    args = parser.parse_args(arguments)
    chosen = [each for each in RERUNS if args.only is None or each.name in args.only]
    if args.list:
        for each in chosen:
            state = "done" if _mark(each, args.records).exists() and not args.afresh else f"{each.minutes} minutes"
            print(f"{state:12s}{'root  ' if each.needs_root else '      '}python {each.arguments}")
        return 0
    unmeasured = [each.name for each in chosen if not finished(each, args.records, args.afresh)]
    page = _python("benchmarks/evidence.py")
    if unmeasured:
        print(f"not measured: {', '.join(unmeasured)} (reasons above)", file=sys.stderr)
    return 1 if unmeasured or page else 0


def finished(rerun: Rerun, records: Path, afresh: bool) -> bool:
    """Run ``rerun`` unless it has finished before; return whether it has finished."""
    mark = _mark(rerun, records)
    if afresh:
        mark.unlink(missing_ok=True)
        if rerun.records:
            shutil.rmtree(records / rerun.records, ignore_errors=True)
    if mark.exists():
        print(f"== {rerun.name}: done before")
        return True
    if rerun.needs_root and os.geteuid() != 0:
        print(f"== {rerun.name}: expected root, which shapes links; got another user")
        return False
    print(f"== {rerun.name}, about {rerun.minutes} minutes: python {rerun.arguments}", flush=True)
    began = time.monotonic()
    if status := _python(rerun.arguments):
        print(f"== {rerun.name}: ended with status {status}")
        return False
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(f"{time.monotonic() - began:.0f} seconds\n")
    return True


def _mark(rerun: Rerun, records: Path) -> Path:
    return records / "evidence" / f"{rerun.name}.done"


def _python(arguments: str) -> int:
    return subprocess.run([sys.executable, *shlex.split(arguments)], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
