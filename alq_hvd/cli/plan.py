"""``alq-hvd plan``: what every exchange would send and take in a cluster, before one is rented."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alq_hvd.cli.codec_rates import seconds_of
from alq_hvd.cli.gradient_file import read_gradient
from alq_hvd.codec.choice import choose_codec
from alq_hvd.codec.keys import stream_key
from alq_hvd.codec.measurement import fit_levels, measure, share_left_together
from alq_hvd.engine.layout import usual_fusion
from alq_hvd.engine.options import ADAPTIVE, UNIFORM, WIDTHS, Options
from alq_hvd.errors import ConfigurationError
from alq_hvd.planning import codec_speeds, units
from alq_hvd.planning.cost import CodecSpeed, Link, World
from alq_hvd.planning.rows import Row, Workload, recommend, rows
from alq_hvd.quantiser import methods
from alq_hvd.quantiser.config import DEFAULT_BUCKET_SIZE, QuantiserConfig, require_int
from alq_hvd.quantiser.levels_by_width import AnyLevels
from alq_hvd.quantiser.record import MAXIMUM_ELEMENTS, RecordLayout, Stamp

DEFAULT_BITS = ("2", "3", "4", "4,8", "5", "6", "8")
TIMED_ELEMENTS, TIMES = 2**20, 5
RANKS_TOGETHER = 8
"""Simulated to find what ranks that round together leave of the error; it hardly changes with more."""
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
    add(
        "--widths",
        choices=WIDTHS,
        default=UNIFORM,
        help="adaptive: a width a block, --bits are means such as 0.75; give your --gradient (default %(default)s)",
    )
    add("--gradient", type=Path, metavar="FILE.npy", help="your own gradient, whose variance is used (default: normal)")
    add("--coherence", type=float, default=0.0, metavar="X", help="|E g|^2 / E|g|^2, 0 (noise, default) to 1 (equal)")
    add(
        "--error",
        type=float,
        default=0.05,
        metavar="X",
        help="most that the mean may be off, as a share of its energy (default %(default)s): the fastest way within it "
        "is recommended",
    )
    add(
        "--codec",
        choices=codec_speeds.NAMES,
        default=codec_speeds.CPU,
        help="cpu: 1e9 coordinates a second, one core (default); h100, h200: predicted from instructions, not "
        "measured; measured: time the codec of this machine now",
    )
    add("--encode-speed", metavar="N", help="coordinates a second and rank, in place of the codec's")
    add("--decode-speed", metavar="N", help="coordinates a second and rank, of each record, in place of the codec's")
    add(
        "--fusion-elements",
        type=int,
        metavar="N",
        help="coordinates that travel together (default: as in training, by the number of ranks)",
    )
    add("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


def run(args: argparse.Namespace) -> int:
    """Predict, recommend, print; return 0.

    Raises:
        ConfigurationError: when an option cannot be used.
    """
    latency = args.latency * 1e-6
    world = World(
        units.count("--ranks", args.ranks),
        units.count("--ranks-per-node", args.ranks_per_node),
        Link(units.bits_per_second(args.link), latency),
        Link(units.bits_per_second(args.intra_link), latency),
    )
    for name, value in (("--coherence", args.coherence), ("--error", args.error), ("--latency", args.latency)):
        if not 0 <= value <= (1 if name == "--coherence" else float("inf")):
            raise ConfigurationError(f"{name}: expected a number from 0, got {value!r}")
    elements = units.count("--parameters", args.parameters)
    fused = usual_fusion(world.ranks) if args.fusion_elements is None else args.fusion_elements
    require_int("--fusion-elements", fused, 1, MAXIMUM_ELEMENTS)
    workload = Workload(elements, args.bucket_size, fused, args.coherence)
    widths = [_widths(text) for text in args.bits]
    made = rows(world, workload, widths, _variances(args, widths, world.ranks), _codec_speed(args))
    best = recommend(made, args.error)
    if args.json:
        print(json.dumps(_document(args, made, best), indent=2))
    else:
        _print(args, world, made, best)
    return 0


def _codec_speed(args: argparse.Namespace) -> CodecSpeed:
    """Return the speed of the codec that was named, or what was given in its place."""
    options = _options(args, methods.usual_bits(args.method))
    config = options.quantiser()
    if args.codec == codec_speeds.MEASURED:
        speed = _timed(config, options.levels()[1])
    else:
        speed = codec_speeds.named_speed(args.codec, config.rotate)
    given = [text and units.count(name, text) for name, text in
             (("--encode-speed", args.encode_speed), ("--decode-speed", args.decode_speed))]  # fmt: skip
    return CodecSpeed(given[0] or speed.encode, given[1] or speed.decode)


def _timed(config: QuantiserConfig, levels: AnyLevels) -> CodecSpeed:
    """Return how fast this machine's codec encodes and decodes normal coordinates, the best of some times."""
    codec = choose_codec("auto")
    values = np.random.default_rng(0).standard_normal(TIMED_ELEMENTS, dtype=np.float32)
    layout, stamp = RecordLayout(len(values), config), Stamp(levels.digest, 0, 0)
    key = stream_key(seed=0, step=0, rank=0, group=0, shot=0)
    record, out = codec.encode(values, layout, levels, key, stamp), np.empty_like(values)
    works: tuple[Callable[[], object], ...] = (
        lambda: codec.encode(values, layout, levels, key, stamp),
        lambda: codec.decode_sum([record], layout, levels, [stamp], 1.0, out),
    )
    return CodecSpeed(*(len(values) / min(seconds_of(work) for _ in range(TIMES)) for work in works))


def _options(args: argparse.Namespace, bits: float) -> Options:
    """Return the options of one shot."""
    return Options.of(
        args.method, bits=bits, bucket_size=args.bucket_size, widths=args.widths, exchange="allgather", codec="auto"
    )


def _width(text: str) -> float:
    return float(text) if "." in text else int(text)


def _widths(text: str) -> tuple[float, float]:
    parts = text.split(",")
    try:
        first, second = (_width(part) for part in (parts * 2 if len(parts) == 1 else parts))
    except ValueError:
        raise ConfigurationError(f"--bits: expected widths such as 4 or 4,8, got {text!r}") from None
    return first, second


def _variances(
    args: argparse.Namespace, widths: Sequence[tuple[float, float]], ranks: int
) -> dict[tuple[int, float], float]:
    """Return (shot, bits) -> relative variance after one adaptation; in the first shot as the mean over ranks sees it.

    A sum over ranks is nearer to normal than its terms: the second shot's variance is always that of normal
    coordinates.
    """
    normal = np.random.default_rng(0).standard_normal(max(SAMPLE_ELEMENTS, args.bucket_size)).astype(np.float32)
    first = read_gradient(args.gradient) if args.gradient else normal
    found: dict[tuple[int, float], float] = {}
    for shot, sample in ((0, first), (1, normal)):
        for bits in sorted({pair[shot] for pair in widths}):
            options = _options(args, bits)
            config = options.quantiser()
            levels = fit_levels(sample, *options.levels(), config).levels
            found[shot, bits] = measure(sample, config, levels, draws=0).relative_variance
            if shot == 0 and config.rounding == "stochastic":
                found[shot, bits] *= share_left_together(sample, config, levels, min(ranks, RANKS_TOGETHER))
    return found


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
    print(f"\nRecommended: {_how(args, best)}, {stock / best.cost.seconds:.3g} times as fast as Horovod fp32, "
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


def _how(args: argparse.Namespace, row: Row) -> str:
    if not row.bits:
        compression = "none" if row.exchange == "fp32" else row.exchange
        return f"plain Horovod, compression=hvd.Compression.{compression}"
    bits = row.bits[0] if len(set(row.bits)) == 1 else row.bits
    widths = ', widths="adaptive"' if args.widths == ADAPTIVE else ""
    return f'bits={bits}{widths}, exchange="{row.exchange}"'
