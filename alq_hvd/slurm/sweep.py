"""Which trainings make up a scaling study: methods times sizes, each in a folder of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from alq_hvd.errors import ConfigurationError
from alq_hvd.slurm.launchers import Srun
from alq_hvd.slurm.options import JobOptions

RUN_FOLDER = "%r"
"""Stands for the folder of a run in the program's arguments."""
SWEPT_COMMAND = (
    "python",
    "examples/train_images.py",
    f"--checkpoint={RUN_FOLDER}/checkpoints",
    f"--output={RUN_FOLDER}",
)
DEFAULT_METHODS = {
    "fp32": "--compression=fp32",
    "fp16": "--compression=fp16",
    # Named, so that no run of ours is quietly one of plain Horovod: that is the comparison.
    "alq": "--compression=alq --bits=3 --exchange=two_shot",
}
DEFAULT_RUNS = "runs/scaling-%j"
_METHOD_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_ARGUMENTS = re.compile(r"[^\n'\"\\$`]*")


@dataclass(frozen=True, slots=True)
class Sweep:
    """Hold the sizes and methods of a scaling study.

    Attributes:
        sizes: numbers of nodes, increasing.
        methods: name -> arguments that the program gets for it, words without quotes, separated by blanks.
        runs: folder for the runs and the report; ``%j`` stands for the number of the job. A folder without it can be
            shared by several jobs.

    Raises:
        ConfigurationError: naming the option, its valid values and the value received.
    """

    sizes: tuple[int, ...]
    methods: Mapping[str, str]
    runs: str = DEFAULT_RUNS

    def __post_init__(self) -> None:
        if not self.sizes or list(self.sizes) != sorted(set(self.sizes)) or self.sizes[0] < 1:
            raise ConfigurationError(f"sizes: expected increasing numbers of nodes from 1, got {list(self.sizes)}")
        for name, arguments in self.methods.items():
            if not _METHOD_NAME.fullmatch(name):
                raise ConfigurationError(f"method: expected letters, digits, _ . or - as its name, got {name!r}")
            if not _ARGUMENTS.fullmatch(arguments):
                raise ConfigurationError(f"method: expected arguments without quotes, $ or \\, got {arguments!r}")
        if not self.runs or not self.runs.isprintable():
            raise ConfigurationError(f"runs: expected a folder on one line, got {self.runs!r}")

    def require_fit(self, options: JobOptions) -> None:
        """Raise ``ConfigurationError`` unless the job of ``options`` can run this sweep."""
        if not isinstance(options.launcher, Srun):
            raise ConfigurationError("launcher: expected srun, which alone starts ranks on a part of the nodes")
        if options.array is not None:
            raise ConfigurationError(f"array: expected none with --scaling, which is one job, got {options.array!r}")
        if self.sizes[-1] > options.nodes:
            raise ConfigurationError(
                f"sizes: expected at most {options.nodes}, the nodes of the job, got {self.sizes[-1]}"
            )
        if not any(RUN_FOLDER in word for word in options.command):
            raise ConfigurationError(
                f"command: expected {RUN_FOLDER} in it, which stands for the folder of a run, got "
                f"{' '.join(options.command)!r}"
            )


def doublings(nodes: int) -> list[int]:
    """Return 1, 2, 4, ... and ``nodes``."""
    return [*(2**power for power in range(max(nodes - 1, 0).bit_length())), nodes]


def method_option(text: str) -> tuple[str, str]:
    """Split NAME=ARGUMENTS."""
    name, equals, arguments = text.partition("=")
    if not equals:
        raise ConfigurationError(f"method: expected NAME=ARGUMENTS, such as fp16=--compression=fp16, got {text!r}")
    return name, arguments
