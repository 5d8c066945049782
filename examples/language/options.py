"""The command line of ``train_text.py``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from images.options import add_method, add_output, complete, natural, positive

from language.data import TOKENS


def parse_options(methods: Mapping[str, int | None], arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check the options of one training run.

    Args:
        methods: the names ``--compression`` accepts, with the bits of a code by default; ``None`` where there are none.
        arguments: instead of the command line.
    """
    parser = argparse.ArgumentParser(
        prog="train_text.py",
        description="Train a small language model on the sources of Python's standard library under Horovod or DDP. "
        "Run it with 'torchrun --standalone --nproc-per-node 2 examples/train_text.py --front-end ddp --compression "
        "eden --bits 1 --widths adaptive', or with 'horovodrun -np 2 python examples/train_text.py', or alone.",
    )
    add_method(parser, methods)
    training = parser.add_argument_group("training")
    training.add_argument("--steps", type=positive, default=200, help="of the optimizer (default: 200)")
    training.add_argument(
        "--batch-size", type=positive, default=16, help="sequences a step, of all ranks (default: 16)"
    )
    training.add_argument("--validate-every", type=positive, default=50, metavar="STEPS", help="(default: 50)")
    training.add_argument("--seed", type=natural, default=0, help="of weights, order of text, codes (default: 0)")
    training.add_argument(
        "--tokens", type=positive, default=TOKENS, help=f"words and signs of the text to read (default: {TOKENS})"
    )
    add_output(parser)
    options = parser.parse_args(arguments)
    complete(options, methods)
    return options
