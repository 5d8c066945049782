"""The command ``alq-hvd``: one module of this package a subcommand, imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TypeAlias

from alq_hvd.errors import AlqError

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

COMMANDS = {
    "bench": "measure how fast the codecs are on this machine, beside a plain copy of memory",
    "doctor": "say what is installed, try every codec and transport, and name the command that fixes what fails",
    "kernels": "compile the CUDA kernels ahead of time, so that no rank of a job has to",
    "levels": "fit levels to a saved gradient and compare every method on it",
    "nodes": "measure every node of a job and name those that differ; start it with launch/check_cluster.sh",
    "plan": "predict bytes, time and error of every exchange in a cluster, and recommend one",
    "report": "make one HTML page from finished runs: throughput, efficiency, bytes, accuracy, levels",
    "sbatch": "render a Slurm batch script from options, and submit it",
    "torchrun": "start the ranks of one node for a program of torch.distributed; run it once on every node",
    "weights": "quantise the weights of a saved model with every scheme, and compare them layer by layer",
}
"""Subcommand -> one line of help. ``alq_hvd/cli/<subcommand>.py`` defines ``add_parser(subparsers)`` and ``run(args)``.

``add_parser`` adds the parser and returns it; ``run`` returns the exit status.
"""

ERROR_STATUS = 2
"""Exit status of an ``AlqError``, the same as argparse's for wrong options."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``alq-hvd`` with the arguments ``argv`` (default: those of the process) and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="alq-hvd", description="Packed low-bit gradients for stock Horovod.")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    module = _add_commands(subparsers, chosen)
    args = parser.parse_args(arguments)
    assert module is not None, "argparse refuses what is not a key of COMMANDS"
    try:
        return int(module.run(args))
    except AlqError as error:
        print(f"alq-hvd {args.command}: {error}", file=sys.stderr)
        return ERROR_STATUS


def _add_commands(subparsers: Subparsers, chosen: str | None) -> ModuleType | None:
    """Add every command, importing only the chosen one, and return its module.

    The others are stubs with their line of help: a subcommand that needs torch must not slow down, or break, the rest.
    """
    module = None
    for name, summary in COMMANDS.items():
        if name == chosen:
            module = importlib.import_module(f"alq_hvd.cli.{name}")
            module.add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    return module
