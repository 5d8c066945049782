"""What rotating buckets does: to the variance on real gradients, to the bias of rounding to the nearest, over ranks.

    python benchmarks/rotation.py [--quick] [--output benchmarks/results/rotation.json]

Gradients as in ``levels.py`` (torch and mlxtend are needed once). Two minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from alq_hvd.codec.keys import StreamKey, stream_key  # noqa: E402
from alq_hvd.codec.measurement import fit, measure  # noqa: E402
from alq_hvd.codec.reference import quantise  # noqa: E402
from alq_hvd.codec.rotation import rotate, rotate_back, rotate_values_back, sign_key  # noqa: E402
from alq_hvd.machine import processor  # noqa: E402
from alq_hvd.quantiser import methods  # noqa: E402
from alq_hvd.quantiser.policies.lloyd_max import lloyd_max  # noqa: E402
from benchmarks.levels import _rounded  # noqa: E402
from benchmarks.real_gradients import STEPS, real_gradients  # noqa: E402

Values = npt.NDArray[np.float32]
METHODS = ("eden", "optimal", "qsgdinf", "alq", "amq", "nuqsgd", "terngrad")
BUCKET_SIZES = (16, 64, 256, 1024, 8192)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "rotation.json")
    parser.add_argument("--quick", action="store_true", help="fewer steps and draws")
    args = parser.parse_args()
    gradients = real_gradients(ROOT / ".cache" / "levels-gradients.npz")
    draws = 50 if args.quick else 1000
    result = {
        "machine": {"processor": processor(), "numpy": np.__version__},
        "relative_variance": [
            variances(gradients[step], bits, bucket_size) | {"step": step}
            for step in (STEPS[1:2] if args.quick else STEPS)
            for bits in (2, 3, 4)
            for bucket_size in BUCKET_SIZES
        ],
        "bias": [
            {"input": name, "size": len(values), "bits": bits, "rounds": rounds, **bias(values, bits, rounds, draws)}
            for name, values in inputs(gradients[100])
            for bits in (2, 3, 4)
            for rounds in (1, 2)
        ],
        "ranks": [over_ranks(name, shared, ranks) for name in ("eden", "optimal") for shared in (False, True)
                  for ranks in (1, 4, 32)],
        "adaptation": [adaptation(gradients[100], bits, size) for bits in (2, 3, 4) for size in (8, *BUCKET_SIZES)],
    }  # fmt: skip
    for part in ("relative_variance", "bias", "ranks", "adaptation"):
        print(f"\n{part}")
        for row in result[part]:
            print("  " + "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(_rounded(result), indent=1) + "\n")
    print(f"\nwritten: {args.output}")


def variances(gradient: Values, bits: int, bucket_size: int) -> dict[str, Any]:
    """Return the relative variance of every method, ``<name>_rotated`` with rotation: the mean over four draws."""
    found: dict[str, Any] = {"bits": bits, "bucket_size": bucket_size}
    for name in METHODS:
        low, high = methods.bits_of(name)
        width = min(max(bits, low), high)
        for rotated in methods.rotations_of(name):
            method = methods.method(name, bits=width, rotate=rotated, zero_level=False)
            config = method.quantiser(width, bucket_size)
            measured = measure(gradient, config, fit(gradient, method, config).levels, draws=4)
            found[f"{name}_rotated" if rotated else name] = measured.sampled if rotated else measured.relative_variance
    return found


def inputs(gradient: Values) -> Iterator[tuple[str, Values]]:
    """Yield buckets from the sparsest to the densest, then very small ones."""
    for name, large in (("one-hot", [1.0]), ("two-hot, equal", [1.0, 1.0]), ("two-hot, 2 to 1", [1.0, 0.5]),
                        ("four-hot", [1.0, -2.0, 0.7, 0.3])):  # fmt: skip
        values = np.zeros(1024, dtype=np.float32)
        values[3 : 3 + 67 * len(large) : 67] = large
        yield name, values
    generator = np.random.default_rng(0)
    huge = generator.standard_normal(1024).astype(np.float32)
    huge[5] = 1e4
    yield "one of 10 000 deviations", huge
    yield "normal", generator.standard_normal(1024).astype(np.float32)
    yield "real gradient", gradient[50_000:51_024].copy()
    yield "two-hot, 2 to 1, a tail of 1500", np.pad(np.array([1.0, 0.5], dtype=np.float32), (700, 798))
    for size in (2, 4, 8, 16, 32, 64):
        yield f"normal, {size}", generator.standard_normal(size).astype(np.float32)


def bias(values: Values, bits: int, rounds: int, draws: int) -> dict[str, float]:
    """Return E|Q(v) - v|^2 / |v|^2 of rounding to the nearest, and what of it is |E Q(v) - v|^2 / |v|^2."""
    config = methods.method("eden", bits=bits).quantiser(bits, len(values))
    levels = lloyd_max(bits)
    total, error = np.zeros(len(values)), 0.0
    for step in range(draws):
        signs = stream_key(seed=0, step=step, rank=0, group=0, shot=0).own_signs
        rotated = rotate(values[None], signs, 0, rounds)[0].astype(np.float64)
        unit = np.sqrt(np.mean(rotated**2)) * config.reach
        middles = (levels.values[1:] + levels.values[:-1]) / 2
        chosen = levels.values[np.searchsorted(middles, rotated / unit)].astype(np.float64)
        decoded = (chosen * (rotated @ rotated) / (rotated @ chosen)).astype(np.float32)
        off = rotate_back(decoded[None], signs, 0, rounds)[0].astype(np.float64) - values
        total, error = total + off, error + off @ off
    energy = float(np.square(values, dtype=np.float64).sum())
    mean = total / draws
    return {"error": error / draws / energy, "bias": float(mean @ mean - error / draws**2) / energy}


def over_ranks(name: str, shared: bool, ranks: int, bits: int = 3, draws: int = 8) -> dict[str, Any]:
    """Return n E|mean of Q(v) - v|^2 / |v|^2 where all n ranks hold the same v: constant if errors fall as 1/n."""
    method = methods.method(name, bits=bits, rotate=True)
    config = method.quantiser(bits, 8192)
    values = np.random.default_rng(1).standard_t(3, 8192).astype(np.float32)
    levels = fit(values, method, config).levels
    error = 0.0
    for step in range(draws):
        total = np.zeros(len(values))
        for rank in range(ranks):
            key = _with_signs(stream_key(seed=0, step=step, rank=rank, group=0, shot=0), shared)
            norms, codes = quantise(values, config, levels, key)
            total += rotate_values_back(norms[0] * levels.values[codes], config, sign_key(key, config), 0)
        error += float(np.square(total / ranks - values).sum()) / draws
    relative = ranks * error / float(np.square(values, dtype=np.float64).sum())
    return {"method": name, "signs": "shared" if shared else "own", "ranks": ranks, "error_times_ranks": relative}


def adaptation(gradient: Values, bits: int, bucket_size: int) -> dict[str, Any]:
    """Return what adapting `optimal` to the rotated gradient gains over levels that assume it to be normal.

    ``normal``: fitted to normal numbers in buckets of this size; ``normal_8192``: in buckets of 8192, a table for all.
    """
    method = methods.method("optimal", bits=bits, rotate=True)
    config = method.quantiser(bits, bucket_size)
    normal = np.random.default_rng(0).standard_normal(len(gradient)).astype(np.float32)
    tables = {
        "adapted": fit(gradient, method, config).levels,
        "normal": fit(normal, method, config).levels,
        "normal_8192": fit(normal, method, method.quantiser(bits, 8192)).levels,
    }
    found = {name: measure(gradient, config, levels, draws=1).relative_variance for name, levels in tables.items()}
    return {"bits": bits, "bucket_size": bucket_size, **found}


def _with_signs(key: StreamKey, shared: bool) -> StreamKey:
    signs = key.shared_signs if shared else key.own_signs
    return replace(key, own_signs=signs, shared_signs=signs)


if __name__ == "__main__":
    main()
