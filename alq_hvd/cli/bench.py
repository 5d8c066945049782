"""``alq-hvd bench codec``: how fast this machine encodes and decodes, beside a copy of the same memory."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from alq_hvd import backends
from alq_hvd.cli import Subparsers
from alq_hvd.cli.codec_rates import Rate, measure_cpu
from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.config import require_int

ELEMENTS = {"cpu": 1 << 24, "cuda": 1 << 26}
"""Default sizes: several times what caches hold."""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the options of this subcommand."""
    parser = subparsers.add_parser("bench", description=__doc__, help="measure this machine")
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    codec = what.add_parser("codec", description=__doc__, help="encode and decode_sum, in G elements/s")
    codec.add_argument("--json", action="store_true", help="print a list of JSON objects instead of a table")
    codec.add_argument("--device", choices=sorted(ELEMENTS), default="cpu")
    codec.add_argument("--bits", default="2,3,4,8", metavar="LIST", help="bits of a code (default: %(default)s)")
    codec.add_argument("--elements", type=int, metavar="N", help="of the gradient (default: 2**24, 2**26 on cuda)")
    codec.add_argument("--bucket-size", type=int, default=8192, metavar="N", help="(default: %(default)s)")
    codec.add_argument("--repeats", type=int, default=25, metavar="N", help="the best counts (default: %(default)s)")
    codec.add_argument("--threads", type=int, default=1, metavar="N", help="of the CPU codec (default: %(default)s)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Measure, print, and return 0."""
    rates = measured(args)
    if args.json:
        print(json.dumps([as_json(rate) for rate in rates], indent=1))
    else:
        print(as_text(rates))
        if args.device == "cuda":
            print(f"\non {backends.torch().cuda.get_device_name()}")
    return 0


def measured(args: argparse.Namespace) -> list[Rate]:
    """Return the rates that the command line asks for.

    Raises:
        ConfigurationError: naming the option and its valid values.
        BackendUnavailable: when the codec of the device is not installed.
    """
    bits = parsed_bits(args.bits)
    elements = ELEMENTS[args.device] if args.elements is None else args.elements
    for name, value, most in (("elements", elements, 2**31 - 1), ("repeats", args.repeats, 10**6)):
        require_int(name, value, 1, most)
    if args.device == "cuda":
        from alq_hvd.cli.cuda_rates import measure_cuda

        return measure_cuda(bits, elements, args.bucket_size, args.repeats)
    return measure_cpu(bits, elements, args.bucket_size, args.repeats, args.threads)


def parsed_bits(text: str) -> list[int]:
    """Return the numbers of a comma-separated list."""
    try:
        bits = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigurationError(f"bits: expected numbers from 1 to 8 between commas, got {text!r}") from error
    for each in bits:
        require_int("bits", each, 1, 8)
    return bits


def as_json(rate: Rate) -> dict[str, object]:
    """Return every field, the time of a call, and both shares."""
    return {
        **asdict(rate),
        "microseconds": rate.microseconds,
        "share_of_memcpy": rate.share_of_memcpy,
        "share_of_bandwidth": rate.share_of_bandwidth,
    }


def as_text(rates: Sequence[Rate]) -> str:
    """Lay the rates out as a table."""
    head = (
        f"{'codec':<12}{'operation':<11}{'bits':>4}{'ranks':>6}{'G elements/s':>14}{'x memcpy':>10}{'of bandwidth':>14}"
    )
    lines = [f"copy of float32: {rates[0].memcpy_elements_per_second / 1e9:.2f} G elements/s", "", head]
    for rate in rates:
        lines.append(
            f"{rate.codec:<12}{rate.operation:<11}{rate.bits:>4}{rate.ranks:>6}{rate.elements_per_second / 1e9:>14.3f}"
            f"{rate.share_of_memcpy:>10.3f}{rate.share_of_bandwidth:>13.1%}{_remarks(rate, rates[0].elements)}"
        )
    return "\n".join(lines)


def _remarks(rate: Rate, elements: int) -> str:
    """Say in which respects a gradient or a codec was out of the ordinary; ``elements`` are ordinary."""
    remarks = [
        f"{rate.elements} elements" if rate.elements != elements and rate.tensors == 1 else "",
        "nearest" if rate.rounding == "nearest" else "",
        rate.dtype if rate.dtype != "float32" else "",
        f"{rate.tensors} tensors in {rate.microseconds:.1f} us" if rate.tensors > 1 else "",
        f"{rate.launches} launches, host {rate.host_microseconds:.0f} us" if rate.launches else "",
        f"buckets of {rate.bucket_size}" if rate.bucket_size else "",
        f"{rate.threads} threads" if rate.threads > 1 else "",
        "adaptive widths" if rate.adaptive else "",
        "rotated" if rate.rotate else "",
    ]
    return "".join(f" {remark}" for remark in remarks if remark)
