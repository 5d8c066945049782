"""What ``alq-hvd doctor`` looks at: each check, what it is for, how it is tried and what fixes it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
SYSTEM_MPI = "sudo apt-get install -y libopenmpi-dev openmpi-bin"


@dataclass(frozen=True, slots=True)
class Check:
    """Describe one thing to try.

    Attributes:
        name: what the report calls it.
        trial: the name of the trial in ``trials.py``.
        remedy: the command that fixes it.
        launcher: the command that starts the trial's ranks; empty: the trial is one process.
    """

    name: str
    trial: str
    remedy: str
    launcher: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """Return the command line of the trial."""
        return [*self.launcher, sys.executable, "-m", "alq_hvd.cli.trials", self.trial]


MAIN_JOB: tuple[tuple[str, ...], ...] = (
    ("python",),
    ("numpy",),
    ("scipy",),
    ("torch",),
    ("horovod",),
    ("launcher",),
    ("codec native", "codec reference"),
    ("transport horovod over MPI", "transport horovod over Gloo"),
)
"""What the main job needs: of each group, one name is enough."""
_OVER_TORCH = (
    ("python",),
    ("numpy",),
    ("scipy",),
    ("torch",),
    ("codec native", "codec reference"),
    ("transport torch over Gloo",),
)
FRONT_ENDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "Horovod": MAIN_JOB,
    "DDP": _OVER_TORCH,
    "FSDP2": _OVER_TORCH,
    "plain calls": _OVER_TORCH,
}
"""What each front end needs, in the same form. Plain calls over MPI need the check of mpi4py instead of torch's."""


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python")


def find_program(name: str) -> str | None:
    """Return the path of ``name``, looking beside this interpreter first: .venv need not be activated."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def checks() -> list[Check]:
    """Return all checks, in the order of the report."""
    run = find_program("horovodrun") or "horovodrun"
    over_mpi, over_gloo = (run, "-np", "2", "--mpi"), (run, "-np", "2", "--gloo")
    everything, pip = set_up_command(), f"{sys.executable} -m pip install"
    return [
        Check("numpy", "numpy", f"{pip} 'numpy>=1.26,<3'"),
        Check("scipy", "scipy", f"{pip} 'scipy>=1.11,<2'"),
        Check("torch", "torch", everything or f"{pip} torch"),
        Check("horovod", "horovod", everything or "in a checkout of alq_hvd: make setup"),
        Check("mpi4py", "mpi4py", everything or f"{SYSTEM_MPI} && {pip} 'mpi4py>=4,<5'"),
        Check("cupy", "cupy", cupy_remedy(pip)),
        Check("codec reference", "codec-reference", f"{pip} 'numpy>=1.26,<3'"),
        Check("codec native", "codec-native", everything or f"{pip} --force-reinstall --no-deps alq-hvd"),
        Check("codec cuda", "codec-cuda", cupy_remedy(pip)),
        Check("transport loopback", "loopback", f"{pip} 'numpy>=1.26,<3'"),
        Check("transport horovod over MPI", "horovod-ranks", everything or SYSTEM_MPI, over_mpi),
        Check("transport horovod over Gloo", "horovod-ranks", everything or SYSTEM_MPI, over_gloo),
        Check("transport mpi (levels)", "mpi-ranks", everything or SYSTEM_MPI, over_mpi),
        Check("transport torch over Gloo", "torch-ranks", everything or f"{pip} torch", TORCHRUN),
    ]


def set_up_command() -> str:
    """Return the command that sets up the checkout this package runs from, or nothing when it was installed."""
    return f"make -C {CHECKOUT} setup" if (CHECKOUT / "launch" / "setup.sh").exists() else ""


def cupy_remedy(pip: str) -> str:
    """Return the command that installs the cupy for this machine's CUDA driver."""
    try:
        command = ["nvidia-smi"]
        printed = subprocess.run(command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "nothing to do: this machine has no NVIDIA driver, and the other codecs run on the CPU"
    version = re.search(r"CUDA Version:\s*(\d+)", printed)
    major = max(12, min(13, int(version.group(1)))) if version else 12
    return f"{pip} 'cupy-cuda{major}x>=14,<15'"


def unmet(working: Sequence[str], needed: Sequence[tuple[str, ...]] = MAIN_JOB) -> list[str]:
    """Return what the main job, or what else is ``needed``, lacks when only the checks in ``working`` succeeded."""
    return [" or ".join(group) for group in needed if not set(group) & set(working)]
