"""How fast the codecs are here: ``alq-hvd bench codec`` with the machine's description, kept as JSON.

python benchmarks/codec.py [--device cuda] [--output benchmarks/results/codec-cpu.json] [options of alq-hvd bench codec]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from alq_hvd import backends  # noqa: E402
from alq_hvd.cli import bench  # noqa: E402
from alq_hvd.codec.native import instruction_sets  # noqa: E402
from alq_hvd.machine import processor  # noqa: E402


def machine(device: str) -> dict[str, object]:
    """Say what the figures depend on."""
    described: dict[str, object] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "instruction_sets": instruction_sets(),
        "load_average": os.getloadavg(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    if backends.available("torch"):
        described["torch"] = metadata.version("torch")
    if device == "cuda":
        described["gpu"] = backends.torch().cuda.get_device_name()
    return described


def main() -> None:
    """Measure, print the table and store the JSON."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    bench.add_parser(commands)
    own = argparse.ArgumentParser(description=__doc__)
    own.add_argument("--output", type=Path)
    options, rest = own.parse_known_args()
    args = parser.parse_args(["bench", "codec", *rest])
    before = machine(args.device)
    rates = bench.measured(args)
    output = options.output or ROOT / "benchmarks" / "results" / f"codec-{args.device}.json"
    output.parent.mkdir(exist_ok=True)
    stored = {"machine": before, "options": vars(args), "rates": [bench.as_json(rate) for rate in rates]}
    output.write_text(json.dumps(stored, indent=1) + "\n")
    print(bench.as_text(rates))
    print(f"\nkept in {output}")


if __name__ == "__main__":
    main()
