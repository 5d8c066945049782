"""How fast the codecs are here: ``alq-hvd bench codec`` with the machine's description, kept as JSON.

python benchmarks/codec.py [--device cuda] [--output benchmarks/results/codec-cpu.json] [options of alq-hvd bench codec]

With ``--grace DIR``, a checkout of https://github.com/sands-lab/grace, its QSGD is measured beside them, on as many
threads: one tensor to int8 and a norm, and back, which packs nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from alq_hvd import backends  # noqa: E402
from alq_hvd.cli import bench, torch_eager  # noqa: E402
from alq_hvd.cli.codec_rates import SLOW_ELEMENTS, SLOW_REPEATS, Rate, seconds_of  # noqa: E402
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
    if device == "cuda" and backends.torch().cuda.is_available():  # where not, measuring says so
        described["gpu"] = backends.torch().cuda.get_device_name()
    return described


def grace_rates(checkout: Path, bits: list[int], elements: int, copy: float, threads: int) -> list[Rate]:
    """Return the rates of GRACE's QSGD with 2**(bits - 1) levels a sign, on the CPU: in its cache, and beyond.

    Args:
        checkout: of GRACE.
        bits: widths that an encoder of its codes would need.
        elements: of the larger of two gradients; the other fits a cache.
        copy: float32 copied a second, of the same run.
        threads: of PyTorch.
    """
    sys.path.insert(0, str(checkout))
    try:
        from grace_dl.torch.compressor.qsgd import QSGDCompressor
    except ModuleNotFoundError as missing:
        sys.exit(f"benchmarks/codec.py: expected a checkout of GRACE in {checkout}, got one without {missing.name}")
    torch = backends.torch()

    rates = []
    with torch_eager.limited_threads(threads):
        for size in (SLOW_ELEMENTS, elements):
            gradient = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 1e-3
            for width in bits:
                qsgd = QSGDCompressor(2 ** (width - 1))
                sent, shape = qsgd.compress(gradient, "gradient")
                for operation, work in (
                    ("encode", partial(qsgd.compress, gradient, "gradient")),
                    ("decode_sum", partial(qsgd.decompress, sent, shape)),
                ):
                    speed = size / min(seconds_of(work) for _ in range(3 * SLOW_REPEATS))
                    rates.append(Rate("grace-qsgd", operation, width, 1, size, speed, copy, threads=threads))
    return rates


def main() -> None:
    """Measure, print the table and store the JSON."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    bench.add_parser(commands)
    own = argparse.ArgumentParser(description=__doc__)
    own.add_argument("--output", type=Path)
    own.add_argument("--grace", type=Path, metavar="DIR", help="checkout of GRACE, to measure its QSGD, too")
    options, rest = own.parse_known_args()
    args = parser.parse_args(["bench", "codec", *rest])
    before = machine(args.device)
    rates = bench.measured(args)
    if options.grace is not None:
        copy = rates[0].memcpy_elements_per_second
        elements = rates[0].elements
        rates += grace_rates(options.grace, bench.parsed_bits(args.bits), elements, copy, args.threads)
    output = options.output or ROOT / "benchmarks" / "results" / f"codec-{args.device}.json"
    output.parent.mkdir(exist_ok=True)
    stored = {"machine": before, "options": vars(args), "rates": [bench.as_json(rate) for rate in rates]}
    output.write_text(json.dumps(stored, indent=1) + "\n")
    print(bench.as_text(rates))
    print(f"\nkept in {output}")


if __name__ == "__main__":
    main()
