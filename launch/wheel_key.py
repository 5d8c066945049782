"""Name the cached Horovod wheel after everything that its machine code depends on.

A wheel of Horovod is only good for the Python, PyTorch, MPI, compiler, C library and processor it was built for, and
pip sees little of that in its file name. Run by the interpreter of the virtual environment:

    python wheel_key.py HOROVOD_VERSION              print the key
    python wheel_key.py HOROVOD_VERSION --explain    print what it is made of, as JSON
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sysconfig
from pathlib import Path

RECIPE = 1
"""Raise it when build_horovod.sh starts to build differently."""

ARCHITECTURE_FLAGS = ("avx", "f16c", "fma")
"""Horovod's CMake switches each of these on where the building processor has it."""

BUILD_VARIABLES = re.compile(
    r"HOROVOD_(WITH|WITHOUT|GPU|CUDA|NCCL|ROCM|NVTX|BUILD|ALLOW|CPU_OPERATIONS|DEBUG)|CUDACXX$|CXX$|CC$|MPICXX$"
)
"""Variables of the environment that Horovod's build reads; those of its run time (cycle time) are not among them."""


def first_line(*command: str) -> str:
    """Return the first line ``command`` prints, or "none" when it cannot run."""
    try:
        printed = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return (printed.splitlines() or ["none"])[0].strip()


def torch_version() -> str:
    """Return the installed version with its local part (+cpu, +cu126), without the seconds an import takes."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def processor_flags(cpuinfo: str) -> list[str]:
    """Return which of ARCHITECTURE_FLAGS the first processor described in ``cpuinfo`` has."""
    match = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    present = set(match.group(1).split()) if match else set()
    return [flag for flag in ARCHITECTURE_FLAGS if flag in present]


def inputs(horovod: str) -> dict[str, object]:
    """Collect everything the wheel depends on."""
    cpuinfo = Path("/proc/cpuinfo")
    return {
        "recipe": RECIPE,
        "horovod": horovod,
        "python": sysconfig.get_config_var("SOABI"),
        "torch": torch_version(),
        "mpi": first_line("mpirun", "--version"),
        "mpi_compiler": first_line("mpicxx", "-show"),
        "compiler": first_line(os.environ.get("CXX", "g++"), "-dumpfullversion"),
        "c_library": " ".join(platform.libc_ver()),
        "machine": platform.machine(),
        "processor_flags": processor_flags(cpuinfo.read_text() if cpuinfo.exists() else ""),
        "variables": {name: value for name, value in sorted(os.environ.items()) if BUILD_VARIABLES.match(name)},
    }


def key(parts: dict[str, object]) -> str:
    """Return a directory name that a person can read and that differs whenever ``parts`` do."""
    hashed = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    mpi = re.search(r"\(([^)]*)\)\s+(\S+)", str(parts["mpi"]))
    readable = f"{parts['python']}-torch{parts['torch']}-{'-'.join(mpi.groups()) if mpi else 'mpi'}-{hashed}"
    return re.sub(r"[^A-Za-z0-9.+_-]+", "", readable)


def main() -> None:
    """Print the key, or what it is made of."""
    parser = argparse.ArgumentParser(description="Name the cached Horovod wheel.")
    parser.add_argument("horovod", help="version of Horovod, such as 0.28.1")
    parser.add_argument("--explain", action="store_true", help="print what the key is made of")
    args = parser.parse_args()
    parts = inputs(args.horovod)
    print(json.dumps(parts, indent=2) if args.explain else key(parts))


if __name__ == "__main__":
    main()
