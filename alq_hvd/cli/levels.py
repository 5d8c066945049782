"""``alq-hvd levels GRADIENT.npy``: the levels every method fits to a gradient, and what they do to it."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alq_hvd.cli.gradient_file import read_gradient
from alq_hvd.codec.measurement import Measured, fit_levels, measure
from alq_hvd.engine.options import ADAPTIVE, UNIFORM, WIDTHS, Options
from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser import methods
from alq_hvd.quantiser.config import DEFAULT_BUCKET_SIZE, NORMS, QuantiserConfig
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.levels_by_width import LevelsByWidth
from alq_hvd.quantiser.policies import LevelUpdate

CHOICES = tuple(name for name in methods.NAMES if name != "none" and False in methods.rotations_of(name))
ROTATED = tuple(name for name in methods.NAMES if True in methods.rotations_of(name))
DEFAULT_BITS = 3


@dataclass(frozen=True, slots=True)
class Row:
    """Hold one method, what it fitted, and what that does to the gradient."""

    method: methods.Method
    config: QuantiserConfig
    update: LevelUpdate
    measured: Measured

    @property
    def by_width(self) -> dict[int, float] | None:
        """Return what the table of each width loses, where widths differ."""
        levels = self.update.levels
        if not isinstance(levels, LevelsByWidth):
            return None
        return {width: float(error) for width, error in zip(levels.widths, levels.errors, strict=True)}

    def as_json(self) -> dict[str, Any]:
        """Return plain values; what is undefined (the objective of a method that does not adapt) is null."""
        return {
            "method": self.method.name,
            "bits": self.config.mean_bits,
            "widths": UNIFORM if self.config.budget is None else ADAPTIVE,
            "variance_by_width": self.by_width,
            "bucket_size": self.config.bucket_size,
            "norm": self.config.norm,
            "clip": self.config.clip,
            "rotate": self.config.rotate,
            "levels": [float(value) for value in self.update.levels.values],
            "relative_variance": self.measured.relative_variance,
            "relative_variance_sampled": _finite(self.measured.sampled),
            "objective_before": _finite(self.update.objective_before),
            "objective_after": _finite(self.update.objective_after),
            "entropy_bits": _finite(self.measured.entropy),
            "bytes_fixed": self.measured.fixed,
            "bytes_ideal": self.measured.ideal,
            "note": self.update.reason,
        }


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add ``levels`` to the command line and return its parser."""
    parser = subparsers.add_parser(
        "levels",
        help="fit levels to a saved gradient and compare every method on it",
        description="Fit levels to a gradient (.npy, floats of any shape) and tell what they do to it.",
    )
    parser.add_argument("gradient", type=Path, metavar="GRADIENT.npy", help="as written by numpy.save")
    parser.add_argument("--method", choices=ROTATED, default="optimal", help="default: %(default)s")
    parser.add_argument(
        "--bits",
        type=_bits,
        help=f"width of a code, 1 to 8, or the mean of its widths (default {DEFAULT_BITS}; terngrad 2)",
    )
    parser.add_argument(
        "--widths",
        choices=WIDTHS,
        default=UNIFORM,
        help="adaptive: every block of buckets has a width that follows its energy, 0.5 to 8 bits in the mean",
    )
    parser.add_argument(
        "--bucket-size",
        type=int,
        default=DEFAULT_BUCKET_SIZE,
        help="coordinates that share a norm (default %(default)s)",
    )
    parser.add_argument("--norm", choices=NORMS, help="scale of a bucket (default: the method's own)")
    parser.add_argument("--clip", type=float, help="clamp to this many standard deviations first; inf: never")
    parser.add_argument("--weight-exponent", type=int, choices=(0, 1, 2), help="a bucket weighs its norm to this power")
    parser.add_argument(
        "--zero-level",
        action=argparse.BooleanOptionalAction,
        help="hold a level that is exactly zero (default: the method's own)",
    )
    parser.add_argument("--free-ends", action="store_true", help="let the ends leave -1 and 1, and clamp: a bias")
    parser.add_argument("--rotate", action="store_true", help="rotate every bucket first; list every method both ways")
    parser.add_argument(
        "--draws", type=int, default=16, help="draws of the codec for the sampled variance (default 16)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw distribution, levels and error (PNG, PDF, SVG)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Fit, measure, print; return 0.

    Raises:
        ConfigurationError: when the file or an option cannot be used.
        BackendUnavailable: when ``--plot`` is asked and matplotlib is not installed.
    """
    bits = args.bits if args.bits is not None else _nearest_bits(args.method, DEFAULT_BITS)
    chosen = Options.of(
        args.method,
        bits=bits,
        bucket_size=args.bucket_size,
        norm=args.norm,
        clip=args.clip,
        weight_exponent=args.weight_exponent,
        zero_level=args.zero_level,
        free_ends=args.free_ends,
        rotate=args.rotate or None,
        widths=args.widths,
        exchange="allgather",
    )
    values = read_gradient(args.gradient)
    main = _row(values, chosen, args)
    own = main.method
    others = []
    for rotate, names in ((False, CHOICES), (True, ROTATED)):
        for name in names if own.rotate or not rotate else ():
            if (name, rotate) != (own.name, own.rotate) and not (args.widths == ADAPTIVE and name == "terngrad"):
                width = _nearest_bits(name, bits)
                other = Options.of(name, bits=width, bucket_size=args.bucket_size, rotate=rotate, widths=args.widths)
                others.append(_row(values, other, args))
    if args.plot is not None:
        if not isinstance(main.update.levels, Levels):
            raise ConfigurationError(
                "--plot: expected one table of levels to draw, got --widths adaptive: leave one out"
            )
        from alq_hvd.cli.levels_plot import save_plot

        save_plot(args.plot, values, main.config, main.update.levels, _title(main))
    if args.json:
        document = main.as_json() | {
            "elements": len(values),
            "bytes_float32": 4 * len(values),
            "zero_level": args.zero_level,
            "free_ends": args.free_ends,
            "methods": [row.as_json() for row in others],
        }
        print(json.dumps(document, allow_nan=False))
    else:
        print(_text(args.gradient, values, main, others))
        if args.plot is not None:
            print(f"\nplot: {args.plot}")
    return 0


def _row(values: npt.NDArray[np.float32], options: Options, args: argparse.Namespace) -> Row:
    config = options.quantiser()
    update = fit_levels(values, *options.levels(), config)
    return Row(
        options.resolve(), config, update, measure(values, config, update.levels, draws=args.draws, seed=args.seed)
    )


def _bits(text: str) -> float:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _nearest_bits(name: str, bits: float) -> float:
    """Return the width nearest to ``bits`` at which a method is defined: TernGrad has one width only."""
    low, high = methods.bits_of(name)
    return min(max(bits, low), high)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _title(row: Row) -> str:
    config = row.config
    rotated = ("", ", rotated", ", rotated twice")[config.rounds]
    mean = "" if config.budget is None else " in the mean, adaptive widths"
    clip = f", clipped at {config.clip:g} deviations" if config.clip is not None else ""
    bits = f"{config.mean_bits:g} bits{mean}"
    return f"{row.method.name}, {bits}, {config.norm} norm, buckets of {config.bucket_size}{rotated}{clip}"


def _text(path: Path, values: npt.NDArray[np.float32], main: Row, others: list[Row]) -> str:
    zeros = float((values == 0).mean())
    length = float(np.linalg.norm(values.astype(np.float64)))
    measured, update = main.measured, main.update
    levels = "  ".join(f"{value:+.5g}" for value in update.levels.values)
    objective = "none: this method does not adapt"
    if math.isfinite(update.objective_before):
        objective = f"{update.objective_before:.6g} -> {update.objective_after:.6g} in the method's own model"
    lines = [
        f"{path}: {len(values):,} coordinates, |g| = {length:.5g}, {zeros:.1%} zeros",
        "",
        _title(main),
        f"  levels             {levels}",
        f"  relative variance  {measured.relative_variance:.5g} closed form, {measured.sampled:.5g} sampled",
        f"  objective          {objective}",
        f"  entropy            {measured.entropy:.3f} bits a coordinate",
        f"  bytes              {measured.fixed:,} at fixed width, {measured.ideal:,} with an ideal coder, "
        f"{4 * len(values):,} as float32",
    ]
    if main.by_width is not None:
        by_width = "  ".join(f"{width} bits {error:.3g}" for width, error in main.by_width.items())
        lines[3:4] = [f"  variance by width  {by_width}"]
    if update.reason:
        lines.append(f"  note               {update.reason}")
    lines += ["", "method    bits norm   variance    sampled  entropy         fixed         ideal"]
    for row in sorted([main, *others], key=lambda row: row.measured.relative_variance):
        numbers = row.measured
        lines.append(
            f"{row.method.name:<9} {row.config.mean_bits:>4g} {row.config.norm:>4} {numbers.relative_variance:>10.4g} "
            f"{numbers.sampled:>10.4g} {numbers.entropy:>8.3f} {numbers.fixed:>13,} {numbers.ideal:>13,}"
            + (" rotated" if row.config.rotate else "")
            + (" <" if row is main else "")
        )
    lines.append("variance: E|Q(g) - g|^2 / |g|^2; terngrad has three levels, 1.585 bits packed in 2, and is clipped")
    return "\n".join(lines)
