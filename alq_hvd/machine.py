"""What this process runs on: host, processor, memory, GPUs, software, the commit of the checkout."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("alq-hvd", "torch", "horovod", "numpy", "mpi4py")
"""Distributions on which all ranks of a job should agree."""
MISSING = "missing"
_TRIAL_SECONDS = 30.0


def describe() -> dict[str, Any]:
    """Return what a run record says of a rank's machine: plain values that json can write."""
    return {
        "host": socket.gethostname(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory_bytes(),
        "gpus": gpu_names(),
        "system": platform.platform(terse=True),
        "software": versions(),
    }


def versions() -> dict[str, str]:
    """Return Python's version and those of ``PACKAGES``, ``"missing"`` where one is not installed."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def version(package: str) -> str:
    """Return the version of an installed distribution, or ``"missing"``."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return MISSING


def gpu_names() -> list[str]:
    """Return the models of the GPUs that the driver shows this process."""
    answer = _answer("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return [line.strip() for line in (answer or "").splitlines() if line.strip()]


def processor() -> str:
    """Return the model of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def memory_bytes() -> int:
    """Return the size of the machine's memory, whatever part of it this process may use."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def commit(directory: Path) -> str | None:
    """Return the git commit that ``directory`` has checked out, ``+`` behind it when tracked files were changed since.

    ``None`` where there is no git, or no checkout.
    """
    name = _answer("git", "-C", str(directory), "rev-parse", "HEAD")
    if name is None:
        return None
    changed = _answer("git", "-C", str(directory), "status", "--porcelain", "--untracked-files=no")
    return name.strip() + ("+" if changed else "")


def _answer(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TRIAL_SECONDS, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
