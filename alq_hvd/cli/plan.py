"""``alq-hvd plan``: what every exchange would send and take in a cluster, before one is rented."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alq_hvd.cli.gradient_file import read_gradient
from alq_hvd.codec.measurement import fit, measure
from alq_hvd.errors import ConfigurationError
from alq_hvd.planning import units
from alq_hvd.planning.cost import CodecSpeed, Link, World
from alq_hvd.planning.rows import Row, Workload, recommend, rows
from alq_hvd.quantiser import methods
from alq_hvd.quantiser.config import DEFAULT_BUCKET_SIZE, QuantiserConfig

DEFAULT_BITS = ("3", "4", "4,8")
SAMPLE_ELEMENTS = 2**17
HEADINGS = ("exchange", "bits", "MB/rank", "MB/node", "link ms", "codec ms", "total ms", "mean error", "accumulator")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add ``plan`` to the command line and return its parser."""
    parser = subparsers.add_parser(
        "plan",
        help="predict bytes, time and error of every exchange in a cluster, and recommend one",
        description="Predict what one step's gradients cost: bytes, time, error of the mean and accumulator, by "
        "exchange and bit width. Times leave out what overlaps with the backward pass.",
    )
    add = parser.add_argument
    add("--parameters", required=True, metavar="N", help="of the model, such as 25.6e6")
    add("--ranks", required=True, metavar="N", help="in all")
    add("--ranks-per-node", default="1", metavar="N", help="that share a node's port (default 1)")
    add("--link", required=True, metavar="RATE", help="of a node's port, each way, such as 25gbit")
    add("--intra-link", default="200gbit", metavar="RATE", help="of a rank inside its node (default 200gbit)")
    add("--latency", type=float, default=25.0, metavar="US", help="of a message, microseconds (default 25)")
    add("--bits", nargs="+", default=list(DEFAULT_BITS), metavar="B", help="widths; 4,8: second shot apart")
    add(
        "--bucket-size",
        type=int,
        default=DEFAULT_BUCKET_SIZE,
        metavar="N",
        help="that share a norm (default %(default)s)",
    )
    add("--method", choices=[name for name in methods.NAMES if name != "none"], default="alq", help="default: alq")
    add("--gradient", type=Path, metavar="FILE.npy", help="of yours, to take the variance from (default: normal)")
    add("--coherence", type=float, default=0.0, metavar="X", help="|E g|^2 / E|g|^2, 0 (noise, default) to 1 (equal)")
    add("--max-error", type=float, default=0.5, metavar="X", help="tolerated error of the mean (default 0.5)")
    add("--encode-speed", default="1e9", metavar="N", help="coordinates a second and rank (default 1e9, one CPU core)")
    add("--decode-speed", default="1e9", metavar="N", help="coordinates a second and rank (default 1e9, one CPU core)")
    add("--fusion-elements", type=int, default=2**22, metavar="N", help="coordinates that travel together")
    add("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


def run(args: argparse.Namespace) -> int:
    """Predict, recommend, print; return 0.

    Raises:
        ConfigurationError: when an option can not be used.
    """
    latency = args.latency * 1e-6
    world = World(
        units.count("--ranks", args.ranks),
        units.count("--ranks-per-node", args.ranks_per_node),
        Link(units.bits_per_second(args.link), latency),
        Link(units.bits_per_second(args.intra_link), latency),
    )
    for name, value in (("--coherence", args.coherence), ("--max-error", args.max_error), ("--latency", args.latency)):
        if not 0 <= value <= (1 if name == "--coherence" else float("inf")):
            raise ConfigurationError(f"{name}: expected a number from 0, got {value!r}")
    elements = units.count("--parameters", args.parameters)
    workload = Workload(elements, args.bucket_size, args.fusion_elements, args.coherence)
    codec = CodecSpeed(*(units.count("--*-speed", speed) for speed in (args.encode_speed, args.decode_speed)))
    widths = [_widths(text) for text in args.bits]
    made = rows(world, workload, widths, _variances(args, widths), codec)
    best = recommend(made, args.max_error)
    if args.json:
        print(json.dumps(_document(args, made, best), indent=2))
    else:
        _print(args, world, made, best)
    return 0


def _widths(text: str) -> tuple[int, int]:
    parts = text.split(",")
    try:
        first, second = (int(part) for part in (parts * 2 if len(parts) == 1 else parts))
    except ValueError:
        raise ConfigurationError(f"--bits: expected widths such as 4 or 4,8, got {text!r}") from None
    return first, second


def _variances(args: argparse.Namespace, widths: Sequence[tuple[int, int]]) -> dict[tuple[int, int], float]:
    """Return (shot, bits) -> relative variance after one adaptation.

    A sum over ranks is nearer to normal than its terms: the second shot's variance is always that of normal
    coordinates.
    """
    normal = np.random.default_rng(0).standard_normal(max(SAMPLE_ELEMENTS, args.bucket_size)).astype(np.float32)
    first = read_gradient(args.gradient) if args.gradient else normal
    found: dict[tuple[int, int], float] = {}
    for shot, sample in ((0, first), (1, normal)):
        for bits in sorted({pair[shot] for pair in widths}):
            known = (0, bits) in found and sample is first
            found[shot, bits] = found[0, bits] if known else _variance(sample, args.method, bits, args.bucket_size)
    return found


def _variance(sample: npt.NDArray[np.float32], name: str, bits: int, bucket_size: int) -> float:
    chosen = methods.method(name, bits=bits)
    config = QuantiserConfig(bits, bucket_size, chosen.norm, chosen.clip)
    return measure(sample, config, fit(sample, chosen, config).levels, draws=0).relative_variance


def _document(args: argparse.Namespace, made: Sequence[Row], best: Row) -> dict[str, Any]:
    asked = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    return {
        "asked": {key: value for key, value in asked.items() if key not in ("command", "json")},
        "recommended": made.index(best),
        "rows": [
            {
                "exchange": row.exchange,
                "bits": list(row.bits),
                "bytes_per_rank": round(row.cost.bytes_per_rank),
                "bytes_per_node": round(row.cost.bytes_per_node),
                "link_seconds": row.cost.link_seconds,
                "latency_seconds": row.cost.latency_seconds,
                "codec_seconds": row.cost.codec_seconds,
                "seconds": row.cost.seconds,
                "mean_error": row.mean_error,
                "accumulator": row.accumulator,
                "cheapest_accumulator": row.cheapest_accumulator[0],
                "cheapest_accumulator_reason": row.cheapest_accumulator[1],
            }
            for row in made
        ],
    }


def _print(args: argparse.Namespace, world: World, made: Sequence[Row], best: Row) -> None:
    nodes = f"{world.nodes} nodes of {world.ranks_per_node}" if world.ranks_per_node > 1 else "one a node"
    print(f"{args.parameters} parameters, {world.ranks} ranks ({nodes}), {args.link} a node, {args.method}, "
          f"bucket {args.bucket_size}; one step:\n")  # fmt: skip
    table = [HEADINGS, *(_cells(row, row is best) for row in made)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        print("  ".join(cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width)
                        in enumerate(zip(cells, widths, strict=True))).rstrip())  # fmt: skip
    stock = made[0].cost.seconds
    print(f"\nRecommended: {_how(best)}, {stock / best.cost.seconds:.3g} times as fast as Horovod fp32, "
          f"error {best.mean_error:.3g} of the mean's energy.")  # fmt: skip
    print(f"A cheaper accumulator: {best.cheapest_accumulator[0]} ({best.cheapest_accumulator[1]}).")


def _cells(row: Row, recommended: bool) -> tuple[str, ...]:
    own = row.cost
    return (
        ("* " if recommended else "  ") + ("Horovod " if not row.bits else "") + row.exchange,
        ",".join(map(str, row.bits)) if len(set(row.bits)) > 1 else "".join(map(str, row.bits[:1])),
        f"{own.bytes_per_rank / 1e6:.4g}",
        f"{own.bytes_per_node / 1e6:.4g}",
        f"{own.link_seconds * 1e3:.4g}",
        f"{own.codec_seconds * 1e3:.4g}",
        f"{own.seconds * 1e3:.4g}",
        f"{row.mean_error:.3g}",
        row.accumulator,
    )


def _how(row: Row) -> str:
    if not row.bits:
        compression = "none" if row.exchange == "fp32" else row.exchange
        return f"plain Horovod, compression=hvd.Compression.{compression}"
    bits = row.bits[0] if len(set(row.bits)) == 1 else row.bits
    return f'bits={bits}, exchange="{row.exchange}"'
