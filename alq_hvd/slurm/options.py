"""What a Slurm job needs to know, validated before anything waits in a queue."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.config import require_int
from alq_hvd.slurm.environments import Bare, Environment
from alq_hvd.slurm.launchers import Launcher, Srun, Torchrun
from alq_hvd.slurm.network import Network

DEFAULT_COMMAND = (
    "python",
    "examples/train_images.py",
    "--compression=alq",
    "--bits=3",
    "--checkpoint=checkpoints/%j",
    "--output=runs/%j",
)
_TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)")
_NAME = re.compile(r"[\w.,:=@%+*/\[\]&|()-]+")
_ARRAY = re.compile(r"(?P<parts>[\d,:-]+)(?:%(?P<at_once>\d+))?")
_ARRAY_PART = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")
LARGEST_TASK = 4_000_000
"""Slurm's own limit of an index; a cluster's MaxArraySize is mostly 1001."""
_FREE_TEXT = ("name", "partition", "account", "qos", "constraint", "reservation", "nodelist", "exclude", "dependency",
              "mail_user", "mail_type", "gres", "memory", "memory_per_cpu", "log")  # fmt: skip
_GPUS = re.compile(r"(?:gres[:/])?gpu(?::[A-Za-z][\w.-]*)?(?::(\d+))?")
_MORE = re.compile(r"([a-z][a-z-]*)(?:=.+)?")
OURS = {
    "nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "gpus", "gpus-per-task", "cpus-per-task", "gres", "mem",
    "mem-per-cpu", "time", "array", "signal", "requeue", "no-requeue", "open-mode", "output", "exclusive", "job-name",
    "partition", "account", "qos", "constraint", "reservation", "nodelist", "exclude", "dependency", "mail-user",
    "mail-type", "wrap", "export", "parsable", "test-only",
}  # fmt: skip
"""Options of sbatch that have one of their own here, or that would take away what the rest of the script relies on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """Hold every option of a rendered job.

    Attributes:
        nodes: how many.
        gpus_per_node: GPUs asked for on each; 0 for a CPU job.
        tasks_per_node: ranks on each; ``None``: one a GPU. Only a CPU job may choose.
        cpus_per_task: cores of a rank, for its data loading and the CPU codec.
        time: limit as D-HH:MM:SS or HH:MM:SS. Shorter: starts sooner, is requeued more often.
        signal_seconds: how long before the limit the program is told to stop; a step, a checkpoint and a margin.
        restarts: how often a job that was stopped goes back into the queue.
        array: indices of a job array, such as ``0-9``, ``1,3,5-9:2`` or ``0-31%4`` (4 at once); every task is a job
            of its own, with ``nodes`` nodes.
        name, partition, account, qos, constraint, reservation, nodelist, exclude, dependency, memory, memory_per_cpu,
            log: as in ``sbatch``; ``None`` leaves them out.
        gres: generic resources of a node; with GPUs in it (``gpu:a100:4``) it stands in place of ``gpus_per_node``,
            whose number must be the same.
        mail_user, mail_type: whom Slurm tells of the job, and what of.
        more: other options of ``sbatch``, without ``--``, such as ``licenses=matlab:1`` or ``get-user-env``.
        exclusive: do not share the nodes.
        modules: environment modules to load first.
        environment: where Python comes from.
        launcher: what starts the ranks.
        network: interface and adapters for NCCL, UCX and Open MPI.
        command: the program and its arguments; ``%j`` stands for the job's number, and in an array ``%A`` for the
            number of the array, ``%a`` for the index of the task.

    Raises:
        ConfigurationError: naming the option, its valid values and the value received.
    """

    nodes: int = 1
    gpus_per_node: int = 4
    tasks_per_node: int | None = None
    cpus_per_task: int = 8
    time: str = "04:00:00"
    signal_seconds: int = 300
    restarts: int = 20
    array: str | None = None
    name: str | None = "alq-hvd"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    dependency: str | None = None
    mail_user: str | None = None
    mail_type: str = "END,FAIL,REQUEUE"
    gres: str | None = None
    memory: str | None = None
    memory_per_cpu: str | None = None
    log: str | None = "slurm-%j.out"
    exclusive: bool = False
    more: Sequence[str] = ()
    modules: Sequence[str] = ()
    environment: Environment = field(default_factory=Bare)
    launcher: Launcher = field(default_factory=Srun)
    network: Network = field(default_factory=Network)
    command: Sequence[str] = DEFAULT_COMMAND

    def __post_init__(self) -> None:
        require_int("nodes", self.nodes, 1, 100_000)
        require_int("gpus_per_node", self.gpus_per_node, 0, 64)
        require_int("cpus_per_task", self.cpus_per_task, 1, 1024)
        require_int("restarts", self.restarts, 0, 10_000)
        self._check_tasks()
        self._check_times()
        self._check_array()
        texts = [(name, getattr(self, name)) for name in _FREE_TEXT] + [("modules", name) for name in self.modules]
        for name, value in texts:
            if value is not None and not _NAME.fullmatch(value):
                raise ConfigurationError(f"{name}: expected a word without spaces or quotes, got {value!r}")
        self._check_resources()
        if not self.command:
            raise ConfigurationError("command: expected a program behind --, got nothing")
        if isinstance(self.launcher, Torchrun) and self.command == DEFAULT_COMMAND:
            raise ConfigurationError(
                "command: expected a program of torch.distributed behind --, got the default, which is one of Horovod"
            )
        if any("\n" in word or "\0" in word for word in self.command):
            raise ConfigurationError(f"command: expected words of one line each, got {list(self.command)!r}")
        self.launcher.require_fit(self.environment)

    def _check_tasks(self) -> None:
        if self.tasks_per_node is not None:
            require_int("tasks_per_node", self.tasks_per_node, 1, 1024)
            if self.gpus_per_node and self.tasks_per_node != self.gpus_per_node:
                raise ConfigurationError(
                    f"tasks_per_node: expected {self.gpus_per_node}, one task a GPU, got {self.tasks_per_node}: leave "
                    "it out, or ask for a CPU job with gpus_per_node 0"
                )
        elif not self.gpus_per_node:
            raise ConfigurationError("tasks_per_node: expected how many ranks a node of a CPU job runs, got nothing")

    def _check_times(self) -> None:
        match = _TIME.fullmatch(self.time)
        if match is None:
            raise ConfigurationError(f"time: expected HH:MM:SS or D-HH:MM:SS, got {self.time!r}")
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        limit = ((24 * days + hours) * 60 + minutes) * 60 + seconds
        # Slurm takes at most 65535, and may send the signal up to a minute early.
        require_int("signal_seconds", self.signal_seconds, 1, 65535)
        if self.signal_seconds + 60 > limit:
            raise ConfigurationError(
                f"signal_seconds: expected at most {max(limit - 60, 0)}, a minute less than the time limit "
                f"{self.time}, got {self.signal_seconds}"
            )

    def _check_resources(self) -> None:
        if self.memory is not None and self.memory_per_cpu is not None:
            raise ConfigurationError(
                f"memory_per_cpu: expected one of memory and memory_per_cpu, got {self.memory!r} and "
                f"{self.memory_per_cpu!r}"
            )
        gpus = [int(count or 1) for count in self._gpus_of_gres()]
        if gpus and sum(gpus) != self.gpus_per_node:
            raise ConfigurationError(
                f"gres: expected {self.gpus_per_node} GPUs in it, the number of gpus_per_node, got {self.gres!r}: give "
                "both the same"
            )
        for option in self.more:
            match = _MORE.fullmatch(option)
            if match is None or not option.isprintable():
                raise ConfigurationError(f"sbatch_option: expected NAME or NAME=VALUE without --, got {option!r}")
            if match[1] in OURS:
                raise ConfigurationError(
                    f"sbatch_option: expected an option that alq-hvd sbatch does not set itself, got {match[1]!r}: see "
                    "alq-hvd sbatch --help"
                )

    def _gpus_of_gres(self) -> list[str | None]:
        matches = [_GPUS.fullmatch(part) for part in (self.gres or "").split(",")]
        return [match[1] for match in matches if match]

    def _check_array(self) -> None:
        if self.array is None:
            return
        match = _ARRAY.fullmatch(self.array)
        parts = [_ARRAY_PART.fullmatch(part) for part in match["parts"].split(",")] if match else [None]
        if match is None or None in parts:
            raise ConfigurationError(
                f"array: expected indices such as 0-9, 1,3,5-9:2 or 0-31%4 (4 at once), got {self.array!r}"
            )
        for first, last, step in (part.groups() for part in parts if part is not None):
            end = int(first if last is None else last)
            if not int(first) <= end <= LARGEST_TASK or step == "0":
                raise ConfigurationError(
                    f"array: expected indices that rise, of at most {LARGEST_TASK}, in steps of at least 1, got "
                    f"{self.array!r}"
                )
        if match["at_once"] is not None and int(match["at_once"]) == 0:
            raise ConfigurationError(f"array: expected at least one task at once behind %, got {self.array!r}")

    @property
    def names_gpus(self) -> bool:
        """Return whether ``gres`` asks for the GPUs."""
        return bool(self._gpus_of_gres())

    @property
    def ranks_per_node(self) -> int:
        """Return how many ranks a node runs."""
        return self.tasks_per_node or self.gpus_per_node

    @property
    def ranks(self) -> int:
        """Return how many ranks the job has."""
        return self.nodes * self.ranks_per_node
