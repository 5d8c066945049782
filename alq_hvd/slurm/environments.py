"""Where the job's Python comes from: each environment says how it is entered and how a command is run inside."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from alq_hvd.errors import ConfigurationError


class Environment(Protocol):
    """Describe an environment to the renderer."""

    def enter(self) -> list[str]:
        """Return the lines of the batch script that enter it."""
        ...

    def wrap(self, gpus: bool) -> list[str]:
        """Return the shell words before the program: the program then runs inside."""
        ...

    def srun_options(self) -> list[str]:
        """Return what srun itself must be told; only srun can start such an environment when there is anything."""
        ...


@dataclass(frozen=True, slots=True)
class Bare:
    """Take the Python that is on the PATH when the job starts, after loading modules."""

    def enter(self) -> list[str]:
        """Return nothing: there is nothing to enter."""
        return ["# Python: whatever is on the PATH."]

    def wrap(self, gpus: bool) -> list[str]:
        """Return nothing."""
        return []

    def srun_options(self) -> list[str]:
        """Return nothing."""
        return []


@dataclass(frozen=True, slots=True)
class Venv:
    """Activate a virtual environment that all nodes see, such as the ``.venv`` of ``make setup``."""

    directory: str = ".venv"

    def __post_init__(self) -> None:
        _require_path("venv", self.directory)

    def enter(self) -> list[str]:
        """Return the activation."""
        return ["# shellcheck source=/dev/null", f"source {shlex.quote(self.directory)}/bin/activate"]

    def wrap(self, gpus: bool) -> list[str]:
        """Return nothing: the activated Python is on the PATH, which every launcher hands on."""
        return []

    def srun_options(self) -> list[str]:
        """Return nothing."""
        return []


@dataclass(frozen=True, slots=True)
class Apptainer:
    """Run every rank inside an Apptainer (Singularity) image, whose MPI must be of the host's major version.

    Attributes:
        image: a .sif file that all nodes see.
        mounts: SOURCE:TARGET directories; the working directory is mounted anyway.
    """

    image: str
    mounts: Sequence[str] = ()

    def __post_init__(self) -> None:
        _require_path("apptainer", self.image)
        _require_mounts(self.mounts)

    def enter(self) -> list[str]:
        """Return a check, so that a wrong path is one clear line and not one error a rank."""
        image = shlex.quote(self.image)
        missing = shlex.quote(f"no readable image at {self.image}")
        return [f"[[ -r {image} ]] || {{ echo {missing} >&2; exit 2; }}"]

    def wrap(self, gpus: bool) -> list[str]:
        """Return the call; ``--nv`` brings the host's driver into the image."""
        binds = [f"--bind={shlex.quote(mount)}" for mount in self.mounts]
        return ["apptainer", "exec", *(["--nv"] if gpus else []), *binds, shlex.quote(self.image)]

    def srun_options(self) -> list[str]:
        """Return nothing."""
        return []


@dataclass(frozen=True, slots=True)
class Pyxis:
    """Run every rank inside an Enroot container, which NVIDIA's Slurm plugin Pyxis makes srun start.

    Attributes:
        image: as Enroot names it (``nvcr.io#nvidia/pytorch:24.05-py3``), or a .sqsh file that all nodes see.
        mounts: SOURCE:TARGET directories; the working directory is mounted anyway.
    """

    image: str
    mounts: Sequence[str] = ()

    def __post_init__(self) -> None:
        _require_path("pyxis", self.image)
        _require_mounts(self.mounts)

    def enter(self) -> list[str]:
        """Return nothing to do: srun enters."""
        return ["# Python: inside the container that srun starts."]

    def wrap(self, gpus: bool) -> list[str]:
        """Return nothing."""
        return []

    def srun_options(self) -> list[str]:
        """Return the options that Pyxis adds to srun."""
        mounts = ",".join(['"$PWD:$PWD"', *map(shlex.quote, self.mounts)])
        return [f"--container-image={shlex.quote(self.image)}", f"--container-mounts={mounts}",
                '--container-workdir="$PWD"']  # fmt: skip


def _require_path(name: str, value: str) -> None:
    if not value or not value.isprintable():
        raise ConfigurationError(f"{name}: expected a path or a name on one line, got {value!r}")


def _require_mounts(mounts: Sequence[str]) -> None:
    for mount in mounts:
        source, _, target = mount.partition(":")
        if not (source.startswith("/") and target.startswith("/")) or "," in mount or not mount.isprintable():
            raise ConfigurationError(f"mount: expected /SOURCE:/TARGET, both absolute, without commas, got {mount!r}")
