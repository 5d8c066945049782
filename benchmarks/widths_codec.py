"""Speed of records whose blocks have widths of their own, beside uniform ones, call by call in turns.

    python benchmarks/widths_codec.py [--seconds 3] [--elements 1048576] [--output FILE.json]

Native codec, one thread, a mean of 3 bits, buckets of 1024, normal numbers: every block then has about 3 bits, so that
both do the same work but for what widths cost. ``share`` is the speed of the adaptive codec over the uniform one's, of
the best calls of each. Writes benchmarks/results/widths-codec.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from alq_hvd.cli.codec_rates import KEY, seconds_of  # noqa: E402
from alq_hvd.codec.base import FloatArray  # noqa: E402
from alq_hvd.codec.native import NativeCodec  # noqa: E402
from alq_hvd.engine.options import WIDTHS, Options  # noqa: E402
from alq_hvd.machine import processor  # noqa: E402
from alq_hvd.quantiser.record import RecordLayout, Stamp  # noqa: E402

METHODS: dict[str, dict[str, Any]] = {
    "maximum norm": {"method": "qsgdinf"},
    "Euclidean norm": {"method": "alq"},
    "maximum norm, rotated": {"method": "qsgdinf", "rotate": True},
    "EDEN": {"method": "eden"},
}
RANKS = 4


def works(values: FloatArray, widths: str, method: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    options, codec = Options(**method, bits=3, widths=widths, exchange="allgather"), NativeCodec()
    layout, levels = RecordLayout(len(values), options.quantiser()), options.levels()[1]
    stamp, out = Stamp(levels.digest, 0, 0), np.empty_like(values)
    record = codec.encode(values, layout, levels, KEY, stamp)
    several = [record.copy() for _ in range(RANKS)]
    return {
        "encode": partial(codec.encode, values, layout, levels, KEY, stamp),
        "decode_sum/1": partial(codec.decode_sum, [record], layout, levels, [stamp], 1.0, out),
        f"decode_sum/{RANKS}": partial(codec.decode_sum, several, layout, levels, [stamp] * RANKS, 1.0, out),
    }


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each method")
    parser.add_argument("--elements", type=int, default=2**20)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "widths-codec.json")
    args = parser.parse_args()
    values = np.random.default_rng(0).standard_normal(args.elements, dtype=np.float32)
    rows = []
    for name, method in METHODS.items():
        both = {widths: works(values, widths, method) for widths in WIDTHS}
        best = {(widths, operation): float("inf") for widths in WIDTHS for operation in both[widths]}
        end = time.perf_counter() + args.seconds
        while time.perf_counter() < end:
            for widths, operation in best:
                best[widths, operation] = min(best[widths, operation], seconds_of(both[widths][operation]))
        for operation in both[WIDTHS[0]]:
            uniform, adaptive = (args.elements / best[widths, operation] for widths in WIDTHS)
            rows.append({"method": name, "operation": operation, "uniform_elements_per_second": uniform,
                         "adaptive_elements_per_second": adaptive, "share": adaptive / uniform})  # fmt: skip
            print(f"{name:24s}{operation:14s}{uniform / 1e9:8.2f} G/s{adaptive / uniform:8.2f} of it", flush=True)
    machine = {"processor": processor(), "cores": os.cpu_count(), "load_average": os.getloadavg()}
    args.output.write_text(json.dumps({"machine": machine, "elements": args.elements, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
