"""``alq-hvd kernels``: compile the CUDA kernels ahead of time, so that no rank of a job has to; no GPU is needed.

The jobs look for them where the environment variable ALQ_HVD_KERNELS says.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from alq_hvd.cli import Subparsers
from alq_hvd.cli.bench import parsed_bits
from alq_hvd.codec import cuda_names
from alq_hvd.codec.cuda_kernels import VARIABLE, cache_folder, compiled
from alq_hvd.errors import ConfigurationError

DTYPES = {name.removeprefix("torch."): kind for name, kind in cuda_names.TYPES.items()}


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the options of this subcommand."""
    parser = subparsers.add_parser("kernels", description=__doc__, help="compile the CUDA kernels ahead of time")
    parser.add_argument("--arch", required=True, metavar="sm_NN", help="of the GPU: sm_80 (A100), sm_90 (H100), ...")
    parser.add_argument("--output", type=Path, metavar="DIR", help=f"folder (default: {cache_folder()})")
    parser.add_argument("--bits", default="2,3,4,8", metavar="LIST", help="bits of a code (default: %(default)s)")
    parser.add_argument("--dtype", default=",".join(DTYPES), metavar="LIST", help="of gradients (default: %(default)s)")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes that compile (default: one a core)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Compile what is not there yet, say how to use it, and return 0."""
    capability = re.fullmatch(r"sm_(\d{2,3})", args.arch)
    if capability is None:
        raise ConfigurationError(f"arch: expected sm_ and a compute capability, such as sm_90, got {args.arch!r}")
    folder: Path = args.output or cache_folder()
    names = cuda_names.every(parsed_bits(args.bits), parsed_dtypes(args.dtype))
    jobs = len(os.sched_getaffinity(0)) if args.jobs is None else args.jobs
    if jobs < 1:
        raise ConfigurationError(f"jobs: expected at least 1, got {jobs}")
    compile_one = partial(compiled, capability=capability.group(1), folder=folder)
    if compile_one(names[0]).parent != folder:  # before others are begun: each would be compiled for nothing
        raise ConfigurationError(f"output: expected a folder that can be written, got {folder}")
    # The compiler takes one lock for all threads of a process. Forked processes have imported everything already.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as processes:
        for number, (name, _) in enumerate(zip(names, processes.map(compile_one, names), strict=True), 1):
            print(f"{number}/{len(names)} {name}", flush=True)
    print(f"{len(names)} kernels for {args.arch} are in {folder}.")
    if args.output:
        print(f"Start jobs with: export {VARIABLE}={folder.resolve()}")
    return 0


def parsed_dtypes(text: str) -> list[str]:
    """Return the kernels' names of the dtypes of a comma-separated list."""
    wrong = [part for part in text.split(",") if part not in DTYPES]
    if wrong:
        raise ConfigurationError(f"dtype: expected some of {', '.join(DTYPES)} between commas, got {wrong[0]!r}")
    return [DTYPES[part] for part in text.split(",")]
