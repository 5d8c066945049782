"""What the size of buckets does to the variance of every method on a real gradient, and what a lopsided table costs.

    python benchmarks/buckets.py                        # writes benchmarks/results/buckets.json and .png; a minute

Buckets of one coordinate lose nothing; above, a coordinate shares its norm with more and more others. Levels are fitted
once, as training does at a scheduled step. The gradient is that of a small convolutional network in the fast part of
its training (``benchmarks/real_gradients.py``). Encoding looks its table up, whatever it is: that of AMQ with p = 1/2
has powers of two, with p = 0.3 it has not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from alq_hvd.codec.choice import choose_codec  # noqa: E402
from alq_hvd.codec.keys import stream_key  # noqa: E402
from alq_hvd.codec.measurement import fit, measure  # noqa: E402
from alq_hvd.machine import describe  # noqa: E402
from alq_hvd.quantiser import methods  # noqa: E402
from alq_hvd.quantiser.levels import Levels  # noqa: E402
from alq_hvd.quantiser.record import RecordLayout, Stamp  # noqa: E402
from benchmarks.real_gradients import STEPS, real_gradients  # noqa: E402

BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384)
METHODS = ("qsgdinf", "nuqsgd", "terngrad", "alq", "alq_n", "amq", "amq_n", "optimal", "eden")
TIMED_ELEMENTS, TIMES = 2**20, 60
RESULT = ROOT / "benchmarks" / "results" / "buckets.json"


def main() -> None:
    """Measure, print the tables, store JSON and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--output", type=Path, default=RESULT)
    args = parser.parse_args()
    gradient = real_gradients(ROOT / ".cache" / "levels-gradients.npz")[STEPS[1]]
    rows = [row for bits in args.bits for row in variances(gradient, bits)]
    for bits in args.bits:
        print(f"\nrelative variance at {bits} bits, by coordinates of a bucket")
        print(f"{'':10s}" + "".join(f"{size:>10d}" for size in BUCKETS))
        for row in rows:
            if row["bits"] == bits:
                print(f"{row['method']:10s}" + "".join(f"{value:10.3g}" for value in row["relative_variance"]))
    times = encode_times()
    print("\nnanoseconds of a coordinate to encode at 3 bits, by table and bucket size")
    for case in times:
        print(f"  {case['table']:14s}{case['bucket_size']:6d}{case['encode_ns']:8.3f}")
    machine = describe()
    machine.pop("host", None)
    found = {"bucket_sizes": BUCKETS, "elements": len(gradient), "rows": rows, "encode_ns": times, "machine": machine}
    args.output.write_text(json.dumps(found, indent=1) + "\n")
    picture(rows, args.bits, args.output.with_suffix(".png"))
    print(f"kept in {args.output} and {args.output.with_suffix('.png')}")


def variances(gradient: np.ndarray, bits: int) -> list[dict[str, Any]]:
    """Return a row a method that is defined at ``bits``."""
    rows = []
    for name in METHODS:
        if name == "terngrad" and bits != 2:
            continue
        method = methods.method(name, bits=bits)
        found = []
        for size in BUCKETS:
            config = method.quantiser(bits, size)
            found.append(measure(gradient, config, fit(gradient, method, config).levels, draws=0).relative_variance)
        rows.append({"method": name, "bits": bits, "relative_variance": found})
    return rows


def encode_times() -> list[dict[str, Any]]:
    """Return the nanoseconds of a coordinate to encode at 3 bits, by table and by bucket size.

    The best of several passes, in which all take turns.
    """
    powers = {f"amq, p = {p}": [p**exponent for exponent in range(3, -1, -1)] for p in (0.5, 0.3)}
    tables = {"uniform": np.linspace(-1, 1, 8)} | {
        name: np.array([-level for level in positive[::-1]] + positive) for name, positive in powers.items()
    }
    cases = [(name, 1024) for name in tables] + [("uniform", size) for size in (64, 8192, 16384)]
    values = np.random.default_rng(0).standard_normal(TIMED_ELEMENTS, dtype=np.float32)
    codec, key = choose_codec("auto"), stream_key(seed=0, step=0, rank=0, group=0, shot=0)
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(TIMES):
        for name, size in cases:
            levels = Levels(tables[name].astype(np.float32))
            layout = RecordLayout(len(values), methods.method("qsgdinf", bits=3).quantiser(3, size))
            start = time.perf_counter()
            codec.encode(values, layout, levels, key, Stamp(levels.digest, 0, 0))
            best[name, size] = min(best[name, size], time.perf_counter() - start)
    return [
        {"table": name, "bucket_size": size, "encode_ns": round(1e9 * seconds / len(values), 3)}
        for (name, size), seconds in best.items()
    ]


def picture(rows: Sequence[dict[str, Any]], bits: Sequence[int], path: Path) -> None:
    """Draw variance against the size of buckets, one panel a width."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(bits), figsize=(4.4 * len(bits), 3.8), squeeze=False, layout="constrained")
    for axis, width in zip(axes[0], bits, strict=True):
        for row in rows:
            if row["bits"] == width:
                axis.plot(BUCKETS[1:], row["relative_variance"][1:], marker=".", label=row["method"],
                          color=f"C{METHODS.index(row['method'])}")  # fmt: skip
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_title(f"{width} bits", fontsize=10)
        axis.set_xlabel("coordinates of a bucket")
        axis.set_ylabel("relative variance")
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
