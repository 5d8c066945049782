"""``alq-hvd torchrun``: the ranks of one node for a program of torch.distributed; a batch script starts one a node."""

from __future__ import annotations

import argparse
import os
import re
import signal
from collections.abc import Mapping, Sequence

from alq_hvd import backends
from alq_hvd.checkpoint.preemption import PREEMPTED_STATUS
from alq_hvd.cli import Subparsers
from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.config import require_int

_ENDPOINT = re.compile(r"[A-Za-z0-9_.-]+:\d{1,5}|\[[0-9A-Fa-f:]+\]:\d{1,5}")
_OF_SLURM = {"nodes": ("SLURM_STEP_NUM_NODES", 1), "node": ("SLURM_NODEID", 0)}
"""Option -> variable that has its value in a job step, and the value outside one."""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the options of this subcommand."""
    parser = subparsers.add_parser(
        "torchrun",
        help="start the ranks of one node for a program of torch.distributed; run it once on every node",
        description="Start one torchrun on this node. Nodes come from Slurm's variables or from options. Ranks that "
        f"stop with status {PREEMPTED_STATUS} end it with that, which torchrun alone would turn into 1, and SIGUSR1 is "
        "left to the ranks.",
        usage="alq-hvd torchrun [options] -- PROGRAM [ARGUMENT...]",
    )
    parser.add_argument("--ranks", type=int, metavar="N", help="of this node (default: one a GPU, or 1)")
    parser.add_argument("--nodes", type=int, metavar="N", help="default: those of the job step, or 1")
    parser.add_argument("--node", type=int, metavar="I", help="number of this node, from 0 (default: Slurm's, or 0)")
    parser.add_argument("--endpoint", metavar="HOST:PORT", help="of node 0; needed with several nodes")
    parser.add_argument("program", nargs="+", metavar="PROGRAM", help="what every rank runs, with its arguments")
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the ranks of this node to their end and return their status."""
    words = torchrun_words(args, os.environ)
    torchrun = backends.require("torch.distributed.run")
    failed = backends.require("torch.distributed.elastic.multiprocessing.errors").ChildFailedError
    # Slurm signals every process of a step. A handler ends with exec: ranks start with the default.
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    try:
        torchrun.run(torchrun.parse_args(words))
    except failed as error:
        statuses = {failure.exitcode for failure in error.failures.values()}
        # When the first rank has ended, torchrun ends those that are on their way out after the same checkpoint.
        if PREEMPTED_STATUS in statuses and statuses <= {PREEMPTED_STATUS, -signal.SIGTERM}:
            return PREEMPTED_STATUS
        print(error)
        return 1
    return 0


def torchrun_words(args: argparse.Namespace, environment: Mapping[str, str]) -> Sequence[str]:
    """Return the arguments of torchrun.

    Raises:
        ConfigurationError: naming the option, what was expected and what was received.
    """
    nodes, node = (_number(name, getattr(args, name), environment) for name in _OF_SLURM)
    require_int("nodes", nodes, 1, 100_000)
    require_int("node", node, 0, nodes - 1)
    if args.ranks is not None:
        require_int("ranks", args.ranks, 1, 1024)
    words = [f"--nproc-per-node={args.ranks or _gpus() or 1}"]
    if nodes == 1:
        return [*words, "--standalone", "--no-python", *args.program]
    if args.endpoint is None or not _ENDPOINT.fullmatch(args.endpoint):
        raise ConfigurationError(
            f"endpoint: expected HOST:PORT of node 0, which all nodes reach, got {args.endpoint!r}"
        )
    if name := environment.get("SLURMD_NODENAME"):
        words.append(f"--local-addr={name}")  # what other nodes call this one; its own idea may be another network's
    return [
        *words,
        f"--nnodes={nodes}",
        f"--node-rank={node}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={args.endpoint}",
        f"--rdzv-conf=is_host={int(node == 0)}",
        f"--rdzv-id={environment.get('SLURM_JOB_ID', 'alq-hvd')}",
        "--no-python",
        *args.program,
    ]


def _number(name: str, given: int | None, environment: Mapping[str, str]) -> int:
    variable, otherwise = _OF_SLURM[name]
    if given is not None:
        return given
    value = environment.get(variable, str(otherwise))
    if not value.isdecimal():
        raise ConfigurationError(f"{name}: expected a number in {variable}, got {value!r}")
    return int(value)


def _gpus() -> int:
    return int(backends.torch().cuda.device_count())
