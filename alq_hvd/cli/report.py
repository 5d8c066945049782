"""``alq-hvd report``: one HTML page about how a training scales, from the records of its runs."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timezone
from pathlib import Path

from alq_hvd.cli import Subparsers
from alq_hvd.errors import ConfigurationError
from alq_hvd.report.comparison import compare, counted
from alq_hvd.report.page import gaps, render
from alq_hvd.report.selection import KINDS, select

DEFAULT_OUTPUT = Path("scaling.html")


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the options of this subcommand."""
    parser = subparsers.add_parser(
        "report",
        help="make one HTML page of throughput, efficiency, bytes, accuracy and levels from finished runs",
        description="Make one self-contained HTML page out of the records of finished runs: throughput, speed-up and "
        "efficiency by number of ranks, bytes, the split of a step's time, accuracy, levels, machine and software. "
        "Runs that cannot be used are named; status 1 says that there were some, 2 that no page was made.",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN_DIR", help="folder of a run, or a folder with such folders in it"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=DEFAULT_OUTPUT, metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument("--scaling", choices=KINDS, help="default: what fits more of the runs")
    parser.add_argument(
        "--baseline", metavar="METHOD", help="everything is compared with its smallest run (default: fp32)"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Select, compare, write; return 1 when a run was left out."""
    selection = select(args.runs, args.scaling)
    for reason in selection.left_out:
        print(f"alq-hvd report: left out: {reason}", file=sys.stderr)
    comparison = compare(selection, args.baseline)
    page = render(comparison, datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"))
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"output: cannot write {args.output}: {error.strerror}") from error
    remarks = len(gaps(comparison))
    parts = [
        counted(len(selection.runs), "run"),
        counted(len(comparison.methods), "method"),
        counted(len(comparison.sizes), "size"),
    ]
    at_end = f"; {counted(remarks, 'remark')} at its end" if remarks else ""
    print(f"{args.output}: {', '.join(parts)}{at_end}")
    return 1 if selection.left_out else 0
