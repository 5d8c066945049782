"""What starts the ranks inside an allocation, and how Slurm's signal reaches them through it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from alq_hvd.errors import ConfigurationError
from alq_hvd.slurm.environments import Environment

MPI_VALUES = ("pmix", "pmix_v2", "pmix_v3", "pmix_v4", "pmix_v5", "pmi2", "cray_shasta", "none")
CPU_BIND_VALUES = ("none", "cores", "threads", "sockets", "ldoms", "rank_ldom")
GPU_BIND_VALUES = ("none", "closest", "single:N", "map_gpu:LIST", "mask_gpu:LIST")
LAST_SECONDS = 60
"""How long ranks may go on after one of them has ended."""
_GPU_BIND = re.compile(r"none|closest|single:\d+|map_gpu:\d+(?:,\d+)*|mask_gpu:0x[\da-f]+(?:,0x[\da-f]+)*")


class Launcher(Protocol):
    """Describe a launcher to the renderer."""

    @property
    def signal_to_script(self) -> bool:
        """Return whether Slurm must signal the batch script, which then tells the launcher."""
        ...

    def require_fit(self, environment: Environment) -> None:
        """Raise ``ConfigurationError`` when it cannot start ranks inside ``environment``."""
        ...

    def words(self, environment: Environment, ranks: int, gpus: bool, exported: Sequence[str]) -> list[list[str]]:
        """Return the shell words before the program, one list a line of the script."""
        ...

    def inside(self, ranks_per_node: int) -> list[str]:
        """Return more words before the program, which stand inside the environment."""
        ...


@dataclass(frozen=True, slots=True)
class Srun:
    """Let Slurm start the ranks itself, through PMIx: the fastest start, and signals reach every rank directly.

    Attributes:
        mpi: what Slurm offers MPI; ``srun --mpi=list`` names what this cluster has.
        cpu_bind: what a rank is bound to.
        gpu_bind: ``none`` shows every rank all GPUs of its node, of which it takes the one of its local rank: NCCL then
            can use NVLink between them. Others hide GPUs from ranks.
    """

    mpi: str = "pmix"
    cpu_bind: str = "cores"
    gpu_bind: str = "none"

    def __post_init__(self) -> None:
        if self.mpi not in MPI_VALUES:
            raise ConfigurationError(f"mpi: expected one of {', '.join(MPI_VALUES)}, got {self.mpi!r}")
        if self.cpu_bind not in CPU_BIND_VALUES:
            raise ConfigurationError(f"cpu_bind: expected one of {', '.join(CPU_BIND_VALUES)}, got {self.cpu_bind!r}")
        if not _GPU_BIND.fullmatch(self.gpu_bind):
            raise ConfigurationError(f"gpu_bind: expected one of {', '.join(GPU_BIND_VALUES)}, got {self.gpu_bind!r}")

    @property
    def signal_to_script(self) -> bool:
        """Return no: Slurm signals the ranks."""
        return False

    def require_fit(self, environment: Environment) -> None:
        """Accept every environment."""

    def words(self, environment: Environment, ranks: int, gpus: bool, exported: Sequence[str]) -> list[list[str]]:
        """Return the call.

        ``--export=ALL``: the ranks of a job that was submitted with ``--export=NONE`` would else start with an empty
        environment. ``--cpus-per-task``: srun 22.05 and later would else give every rank one core. ``--wait``: when a
        rank has ended, for whatever reason, the others have a minute; ``--kill-on-bad-exit`` would not even let them
        finish exiting after a checkpoint.
        """
        binding = ['--cpus-per-task="$SLURM_CPUS_PER_TASK"', f"--cpu-bind={self.cpu_bind}"]
        if gpus:
            binding.append(f"--gpu-bind={self.gpu_bind}")
        call = ["srun", "--export=ALL", f"--mpi={self.mpi}", "--kill-on-bad-exit=0", f"--wait={LAST_SECONDS}", *binding]
        return [call, *([options] if (options := environment.srun_options()) else [])]

    def inside(self, ranks_per_node: int) -> list[str]:
        """Return nothing."""
        return []


@dataclass(frozen=True, slots=True)
class Torchrun:
    """Let Slurm start one torchrun a node, for programs of torch.distributed."""

    @property
    def signal_to_script(self) -> bool:
        """Return no: Slurm signals the ranks; ``alq-hvd torchrun`` beside them lets the signal pass."""
        return False

    def require_fit(self, environment: Environment) -> None:
        """Accept every environment."""

    def words(self, environment: Environment, ranks: int, gpus: bool, exported: Sequence[str]) -> list[list[str]]:
        """Return the call: one task with the cores of all ranks of its node."""
        cores = '--cpus-per-task="$((SLURM_CPUS_PER_TASK * SLURM_NTASKS_PER_NODE))"'
        call = ["srun", "--export=ALL", "--mpi=none", "--kill-on-bad-exit=0", f"--wait={LAST_SECONDS}",
                '--ntasks="$SLURM_JOB_NUM_NODES"', "--ntasks-per-node=1", cores, "--cpu-bind=none"]  # fmt: skip
        return [call, *([options] if (options := environment.srun_options()) else [])]

    def inside(self, ranks_per_node: int) -> list[str]:
        """Return the call of ``alq-hvd torchrun``, whose nodes meet at the first one, at a port of the job's own."""
        head = '"$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p):$((20000 + SLURM_JOB_ID % 20000))"'
        return ["alq-hvd", "torchrun", f"--ranks={ranks_per_node}", f"--endpoint={head}", "--"]


@dataclass(frozen=True, slots=True)
class Mpirun:
    """Start the ranks with Open MPI's own launcher, for clusters whose srun has no PMIx."""

    @property
    def signal_to_script(self) -> bool:
        """Return yes: mpirun hands USR1 on to its ranks."""
        return True

    def require_fit(self, environment: Environment) -> None:
        """Refuse environments that only srun can start."""
        _require_no_srun("mpirun", environment)

    def words(self, environment: Environment, ranks: int, gpus: bool, exported: Sequence[str]) -> list[list[str]]:
        """Return the call; Slurm's allocation tells mpirun the nodes and slots."""
        exports = [word for name in ("PATH", *exported) for word in ("-x", name)]
        return [["mpirun", "-np", str(ranks), "--bind-to", "none", "--map-by", "slot"], exports]

    def inside(self, ranks_per_node: int) -> list[str]:
        """Return nothing."""
        return []


@dataclass(frozen=True, slots=True)
class Horovodrun:
    """Start the ranks with horovodrun over MPI; nodes must reach each other by ssh without a password."""

    @property
    def signal_to_script(self) -> bool:
        """Return yes: horovodrun becomes mpirun, which hands USR1 on to its ranks."""
        return True

    def require_fit(self, environment: Environment) -> None:
        """Refuse environments that only srun can start."""
        _require_no_srun("horovodrun", environment)

    def words(self, environment: Environment, ranks: int, gpus: bool, exported: Sequence[str]) -> list[list[str]]:
        """Return the call; horovodrun hands the whole environment on by itself."""
        hosts = """"$(scontrol show hostnames | sed "s/$/:$SLURM_NTASKS_PER_NODE/" | paste -sd ,)\""""
        return [["horovodrun", "--mpi", "-np", str(ranks), "-H", hosts]]

    def inside(self, ranks_per_node: int) -> list[str]:
        """Return nothing."""
        return []


def _require_no_srun(name: str, environment: Environment) -> None:
    if environment.srun_options():
        raise ConfigurationError(f"launcher: expected srun, which alone can start Pyxis containers, got {name}")
