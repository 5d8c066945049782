"""``alq-hvd sbatch``: a batch script for Slurm from a few options, printed, kept or submitted."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from alq_hvd.cli import Subparsers
from alq_hvd.errors import AlqError, BackendUnavailable, ConfigurationError
from alq_hvd.slurm.environments import Apptainer, Bare, Environment, Pyxis, Venv
from alq_hvd.slurm.launchers import (
    CPU_BIND_VALUES,
    GPU_BIND_VALUES,
    MPI_VALUES,
    Horovodrun,
    Launcher,
    Mpirun,
    Srun,
    Torchrun,
)
from alq_hvd.slurm.network import NCCL_DEBUG_VALUES, Network
from alq_hvd.slurm.options import DEFAULT_COMMAND, JobOptions
from alq_hvd.slurm.render import render, render_sweep
from alq_hvd.slurm.sweep import DEFAULT_METHODS, DEFAULT_RUNS, SWEPT_COMMAND, Sweep, doublings, method_option

LAUNCHERS: dict[str, Callable[[argparse.Namespace], Launcher]] = {
    "srun": lambda args: Srun(args.mpi, args.cpu_bind, args.gpu_bind),
    "mpirun": lambda args: Mpirun(),
    "horovodrun": lambda args: Horovodrun(),
    "torchrun": lambda args: Torchrun(),
}
"""Name on the command line -> constructor."""

_OF_SBATCH = ("partition", "account", "qos", "constraint", "reservation", "nodelist", "exclude", "dependency")
_SUBMIT_SECONDS = 60


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the options of this subcommand."""
    parser = subparsers.add_parser(
        "sbatch",
        help="render a Slurm batch script from options, and submit it",
        description="Render a Slurm batch script that starts one rank a GPU, stops with a checkpoint before the time "
        "limit and goes back into the queue. Without --submit nothing is submitted.",
        usage="alq-hvd sbatch [options] [-- PROGRAM ARGUMENT...]",
    )
    size = parser.add_argument_group("size")
    size.add_argument("--nodes", type=int, default=1, metavar="N", help="default: 1")
    size.add_argument("--gpus-per-node", type=int, default=4, metavar="N", help="one rank each; 0: CPU (default: 4)")
    size.add_argument("--tasks-per-node", type=int, metavar="N", help="ranks on each node of a CPU job")
    size.add_argument("--cpus-per-task", type=int, default=8, metavar="N", help="cores of a rank (default: 8)")
    size.add_argument("--gres", metavar="LIST", help="as in sbatch; gpu:a100:4 names the kind of the GPUs")
    size.add_argument("--mem", metavar="SIZE", help="of a node, such as 200G")
    size.add_argument("--mem-per-cpu", metavar="SIZE", help="of a core, such as 4G")
    size.add_argument("--exclusive", action="store_true", help="do not share the nodes")
    time = parser.add_argument_group("time")
    time.add_argument("--time", default="04:00:00", metavar="[D-]HH:MM:SS", help="limit (default: 04:00:00)")
    time.add_argument("--signal-seconds", type=int, default=300, metavar="N", help="stop this early (default: 300)")
    time.add_argument("--restarts", type=int, default=20, metavar="N", help="times back into the queue (default: 20)")
    time.add_argument("--array", metavar="INDICES", help="one job an index: 0-9, 1,3,5-9:2, 0-31%%4 (4 at once)")
    where = parser.add_argument_group("place and name")
    for name in _OF_SBATCH:
        where.add_argument(f"--{name}", metavar="NAME", help="as in sbatch")
    where.add_argument("--mail-user", metavar="ADDRESS", help="whom Slurm tells of the job")
    where.add_argument(
        "--mail-type", default="END,FAIL,REQUEUE", metavar="EVENTS", help="what of (default: %(default)s)"
    )
    where.add_argument("--sbatch-option", action="append", default=[], metavar="NAME[=VALUE]",
                       help="any other option of sbatch, without --; repeatable")  # fmt: skip
    where.add_argument("--job-name", default="alq-hvd", metavar="NAME", help="default: alq-hvd")
    where.add_argument(
        "--log", default="slurm-%j.out", metavar="FILE", help="output of the ranks (default: %(default)r)"
    )
    python = parser.add_argument_group("environment")
    python.add_argument("--module", action="append", default=[], metavar="NAME", help="module to load; repeatable")
    kind = python.add_mutually_exclusive_group()
    kind.add_argument("--venv", metavar="DIR", help="virtual environment to activate")
    kind.add_argument("--apptainer", metavar="IMAGE.sif", help="image to run every rank in")
    kind.add_argument("--pyxis", metavar="IMAGE", help="Enroot image or .sqsh file, started by srun with Pyxis")
    python.add_argument("--mount", action="append", default=[], metavar="SOURCE:TARGET", help="for images; repeatable")
    start = parser.add_argument_group("launcher")
    start.add_argument(
        "--launcher", choices=LAUNCHERS, default="srun", help="default: srun; torchrun for torch.distributed"
    )
    start.add_argument("--mpi", default="pmix", metavar="KIND", help=f"of srun: {', '.join(MPI_VALUES)}")
    start.add_argument("--cpu-bind", default="cores", metavar="KIND", help=f"of srun: {', '.join(CPU_BIND_VALUES)}")
    start.add_argument("--gpu-bind", default="none", metavar="KIND", help=f"of srun: {', '.join(GPU_BIND_VALUES)}")
    network = parser.add_argument_group("network")
    network.add_argument("--interface", metavar="NAME", help="IP interface, such as ib0")
    network.add_argument("--adapters", nargs="+", default=[], metavar="NAME:PORT", help="such as mlx5_0:1 mlx5_1:1")
    network.add_argument("--nccl-debug", choices=NCCL_DEBUG_VALUES, default="WARN", help="default: WARN")
    sweep = parser.add_argument_group("scaling sweep")
    sweep.add_argument("--scaling", action="store_true", help="train once a method and size instead, then report")
    sweep.add_argument("--sizes", type=int, nargs="+", metavar="N", help="nodes of the runs (default: 1 2 4 ... all)")
    sweep.add_argument("--method", action="append", default=[], metavar="NAME=ARGUMENTS",
                       help=f"to compare; repeatable (default: {', '.join(DEFAULT_METHODS)})")  # fmt: skip
    sweep.add_argument(
        "--runs", default=DEFAULT_RUNS, metavar="DIR", help="for all runs and the report (default: runs/scaling-%%j)"
    )
    what = parser.add_argument_group("what to do with the script").add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="print it and do nothing else (the default)")
    what.add_argument("--submit", action="store_true", help="hand it to sbatch")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write it there instead of printing it")
    help_command = (
        "the program to train with; in it %%j stands for the job's number, with --array %%A for the array's and %%a "
        "for the task's index, with --scaling %%r for the folder of a run (default: the image example)"
    )
    parser.add_argument("program", nargs="*", metavar="PROGRAM", help=help_command)
    return parser


def run(args: argparse.Namespace) -> int:
    """Render, then print, write or submit."""
    if args.scaling:
        script = render_sweep(job_options(args), sweep(args), command_line(args))
    elif args.sizes or args.method or args.runs != DEFAULT_RUNS:
        raise ConfigurationError("sizes, method, runs: expected --scaling with them, got none")
    else:
        script = render(job_options(args), command_line(args))
    if args.output is not None and not args.dry_run:
        try:
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_text(script, encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"output: cannot write {args.output}: {error.strerror}") from error
    if args.submit:
        print(submit(script))
    elif args.output is None or args.dry_run:
        print(script, end="")
    return 0


def job_options(args: argparse.Namespace) -> JobOptions:
    """Return the validated options of a parsed command line."""
    return JobOptions(
        nodes=args.nodes,
        gpus_per_node=args.gpus_per_node,
        tasks_per_node=args.tasks_per_node,
        cpus_per_task=args.cpus_per_task,
        time=args.time,
        signal_seconds=args.signal_seconds,
        restarts=args.restarts,
        array=args.array,
        name=args.job_name,
        gres=args.gres,
        memory=args.mem,
        memory_per_cpu=args.mem_per_cpu,
        mail_user=args.mail_user,
        mail_type=args.mail_type,
        more=args.sbatch_option,
        log=args.log,
        exclusive=args.exclusive,
        modules=args.module,
        environment=_environment(args),
        launcher=LAUNCHERS[args.launcher](args),
        network=Network(args.interface, args.adapters, args.nccl_debug),
        command=args.program or (SWEPT_COMMAND if args.scaling else DEFAULT_COMMAND),
        **{name: getattr(args, name) for name in _OF_SBATCH},
    )


def sweep(args: argparse.Namespace) -> Sweep:
    """Return the validated options of a parsed ``--scaling``."""
    methods = dict(method_option(text) for text in args.method)
    if len(methods) < len(args.method):
        raise ConfigurationError(f"method: expected every name once, got {' '.join(args.method)!r}")
    return Sweep(tuple(args.sizes or doublings(args.nodes)), methods or dict(DEFAULT_METHODS), args.runs)


def command_line(args: argparse.Namespace) -> list[str]:
    """Return the words that render the same script: those that were not left at their default."""
    parser = argparse.ArgumentParser()
    own = add_parser(parser.add_subparsers())
    words = ["alq-hvd", "sbatch"]
    for action in own._actions:
        value = getattr(args, action.dest, None)
        if action.dest in ("output", "submit", "dry_run", "program") or value == action.default or value is None:
            continue
        option = action.option_strings[0]
        if isinstance(action, argparse._AppendAction):
            words += [word for each in value for word in (option, each)]
        else:
            words += [option, *([] if value is True else map(str, value if isinstance(value, list) else [value]))]
    return [*words, *(["--", *args.program] if args.program else [])]


def submit(script: str) -> str:
    """Hand ``script`` to sbatch and return what it says.

    Raises:
        BackendUnavailable: when there is no sbatch here.
        AlqError: when Slurm refuses, with its reason.
    """
    if shutil.which("sbatch") is None:
        raise BackendUnavailable("no sbatch on the PATH: run this on a login node of the cluster, or use --output FILE")
    try:
        done = subprocess.run(
            ["sbatch"], input=script, capture_output=True, text=True, timeout=_SUBMIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise AlqError(
            f"sbatch did not answer within {_SUBMIT_SECONDS} s: is slurmctld up? See: scontrol ping"
        ) from None
    if done.returncode != 0:
        raise AlqError(f"sbatch refused the job: {done.stderr.strip()}")
    return done.stdout.strip()


def _environment(args: argparse.Namespace) -> Environment:
    if args.mount and not (args.apptainer or args.pyxis):
        raise ConfigurationError("mount: expected --apptainer or --pyxis with it, got neither")
    if args.venv is not None:
        return Venv(args.venv)
    if args.apptainer is not None:
        return Apptainer(args.apptainer, args.mount)
    if args.pyxis is not None:
        return Pyxis(args.pyxis, args.mount)
    return Bare()
