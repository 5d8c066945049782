r"""Error and bytes of every exchange in simulated worlds: the code of training, many ranks in one process, no network.

    python benchmarks/simulated.py [--ranks 4 32 256] [--elements 262144] [--methods qsgdinf optimal optimal:rotate]
    python benchmarks/simulated.py --ranks 4 8 16 32 64 --elements 131072 --bucket-size 16384 \
        --ways published one-shot two-shots --methods qsgdinf nuqsgd alq alq_n amq amq_n optimal \
        --output benchmarks/results/simulated-methods.json

Half of each rank's gradient is common to all ranks, half is its own. The error is that of the mean, squared, over the
square of the exact mean, after one adaptation of the levels; bytes are those of one rank, without probes and levels.
Writes benchmarks/results/simulated.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alq_hvd.codec.base import FloatArray
from alq_hvd.codec.choice import choose_codec
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.engine.aggregator import Aggregator
from alq_hvd.engine.options import Options
from alq_hvd.engine.transport import PlainTransport

WAYS: dict[str, dict[str, Any]] = {
    "allgather 4": {"exchange": "allgather", "bits": 4},
    "two_shot 4": {"exchange": "two_shot", "bits": 4},
    "two_shot 4,8": {"exchange": "two_shot", "bits": (4, 8)},
    "published": {"exchange": "allgather", "bits": 3, "zero_level": False, "correlated": False},
    "one-shot": {"exchange": "allgather", "bits": 3},
    "two-shots": {"exchange": "two_shot", "bits": 3},
    "4, dithered": {"exchange": "two_shot", "bits": 4, "dither": True},
    "4, no dither": {"exchange": "two_shot", "bits": 4, "dither": False},
    "4, all alone": {"exchange": "two_shot", "bits": 4, "dither": False, "correlated": False},
}
"""In the last, ranks do not even round together; ``published`` are methods as the papers have them."""
STEPS = 2


def main() -> None:
    """Simulate every world and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 16, 32, 64, 256])
    parser.add_argument("--elements", type=int, default=2**18, help="coordinates of the gradient")
    parser.add_argument(
        "--methods", nargs="+", default=["qsgdinf", "optimal", "optimal:rotate"], metavar="METHOD[:rotate]"
    )
    parser.add_argument("--bucket-size", type=int, default=512)
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=list(WAYS), help="the first is what the others are compared with"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "simulated.json")
    args = parser.parse_args()
    rows = []
    print(f"{'':20s}{'ranks':>6s}{'':16s}{'error':>10s}{'x first':>9s}{'bytes a rank':>14s}{'of first':>9s}")
    for method in args.methods:
        for ranks in args.ranks:
            own = [simulate(method, way, ranks, args.elements, args.bucket_size) for way in args.ways]
            rows += own
            for row in own:
                print(
                    f"{method:20s}{ranks:6d}  {row['way']:14s}{row['error']:10.2e}{row['error'] / own[0]['error']:9.2f}"
                    f"{row['bytes']:14,d}{row['bytes'] / own[0]['bytes']:9.1%}",
                    flush=True,
                )
    described = {"elements": args.elements, "bucket_size": args.bucket_size, "steps": STEPS}
    args.output.write_text(json.dumps({**described, "rows": rows}, indent=1) + "\n")


def simulate(method: str, way: str, size: int, elements: int, bucket_size: int) -> dict[str, Any]:
    """Return the error of the mean at the last step, and the bytes that one rank sent in it."""
    name, _, rotate = method.partition(":")
    options = Options(method=name, rotate=True if rotate else None, bucket_size=bucket_size, schedule=[0], **WAYS[way])

    def program(ranks: LoopbackCommunicator) -> tuple[FloatArray | None, int]:
        aggregator = Aggregator(options, choose_codec("auto"))
        aggregator.connect(PlainTransport(ranks), ranks)
        for step in range(STEPS):
            aggregator.start(0, draw(ranks.rank, step, elements))
            mean = aggregator.result(0, 1 / size)
            aggregator.end_step()
        return (mean if ranks.rank == 0 else None), aggregator.ledger.bytes_last_step

    outcomes = LoopbackWorld(size).run(program)
    mean = outcomes[0][0]
    assert mean is not None
    exact = average([draw(rank, STEPS - 1, elements) for rank in range(size)])
    off = mean.astype(np.float64) - exact
    error = float((off**2).sum() / (exact**2).sum())
    return {"method": method, "ranks": size, "way": way, "error": error, "bytes": max(sent for _, sent in outcomes)}


def draw(rank: int, step: int, elements: int) -> FloatArray:
    """Return a rank's gradient: half of it common to all ranks."""
    common = np.random.default_rng([step]).standard_normal(elements, dtype=np.float32)
    own = np.random.default_rng([step, rank + 1]).standard_normal(elements, dtype=np.float32)
    gradient: FloatArray = common + own
    return gradient


def average(gradients: Sequence[FloatArray]) -> np.ndarray:
    """Return the exact mean, float64[elements]."""
    return np.mean(gradients, axis=0, dtype=np.float64)


if __name__ == "__main__":
    main()
