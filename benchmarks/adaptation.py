"""What the whole update of the levels costs in training: statistics, MPI, fit and broadcast, as a share of step time.

    python benchmarks/adaptation.py [--methods alq optimal] [--every 100] [--output benchmarks/results/adaptation.json]

Runs examples/train_images.py under horovodrun -np 4 and reads the split of the step time that every rank records.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GOAL = 0.01
LIMIT_SECONDS = 900


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["alq", "optimal"])
    parser.add_argument("--bits", type=int, nargs="+", default=[3, 8])
    parser.add_argument("--every", type=int, default=100, help="steps between two adaptations")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--train-images", type=int, default=12000)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "adaptation.json")
    args = parser.parse_args()
    rows = [row for method in args.methods for bits in args.bits for row in measure(method, bits, args)]
    print(f"{'method':<10}{'bits':>5}{'rank':>5}{'step, ms':>10}{'adapt, ms':>11}{'share':>8}{'one update, ms':>16}")
    for row in rows:
        print(
            f"{row['method']:<10}{row['bits']:>5}{row['rank']:>5}{row['step_ms']:>10.2f}{row['adapt_ms']:>11.4f}"
            f"{row['share']:>8.2%}{row['update_ms']:>16.2f}"
        )
    worst = max(row["share"] for row in rows)
    print(f"goal: at most {GOAL:.0%} of the step time; worst {worst:.2%}, {'reached' if worst <= GOAL else 'missed'}")
    result = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "every": args.every, "rows": rows}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n")


def measure(method: str, bits: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Train two epochs and return one row a rank."""
    launcher = Path(sys.executable).parent / "horovodrun"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
    with tempfile.TemporaryDirectory() as directory:
        command = [str(launcher), "-np", str(args.ranks), sys.executable, str(ROOT / "examples" / "train_images.py")]
        options = {
            "--compression": method,
            "--bits": bits,
            "--adapt-every": args.every,
            "--epochs": 3,
            "--train-images": args.train_images,
            "--test-images": 1000,
            "--output": directory,
            "--progress": "none",
        }
        command += [str(word) for pair in options.items() for word in pair]
        subprocess.run(command, check=True, env=environment, timeout=LIMIT_SECONDS, stdin=subprocess.DEVNULL)
        steps = json.loads((Path(directory) / "result.json").read_text())["steps"]
        records = [json.loads((Path(directory) / f"rank-{rank}.json").read_text()) for rank in range(args.ranks)]
    updates = len([step for step in range(steps) if step % args.every == 0])
    rows = []
    for record in records:
        seconds = record["seconds_per_step"]
        step = sum(seconds[phase] for phase in ("compute", "encode", "exchange", "decode", "adapt"))
        rows.append(
            {
                "method": method,
                "bits": bits,
                "rank": record["rank"],
                "step_ms": 1e3 * step,
                "adapt_ms": 1e3 * seconds["adapt"],
                "share": seconds["adapt"] / step,
                "update_ms": 1e3 * seconds["adapt"] * steps / updates,
            }
        )
    return rows


if __name__ == "__main__":
    main()
