"""The one place that imports torch, horovod, mpi4py and cupy, each only when it is needed."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from alq_hvd.errors import BackendUnavailable

_REMEDIES = {
    "torch": "pip install torch",
    "horovod": "run `make setup` in a checkout of alq_hvd, which builds Horovod 0.28.1 for the installed torch",
    "mpi4py": "install an MPI library, then pip install 'alq-hvd[mpi]'",
    "cupy": "pip install 'alq-hvd[cuda12]' or 'alq-hvd[cuda13]', to match the CUDA driver",
    "prometheus_client": "pip install 'alq-hvd[monitoring]'",
    "tensorboard": "pip install 'alq-hvd[monitoring]'",
    "jinja2": "pip install 'alq-hvd[report]'",
    "matplotlib": "pip install 'alq-hvd[report]'",
    "alq_hvd.accumulation._native": "run `make setup` in a checkout, or pip install --force-reinstall alq-hvd",
    "alq_hvd.checkpoint._shield": "run `make setup` in a checkout of alq_hvd, or pip install --force-reinstall alq-hvd",
    "alq_hvd.codec._native": "install a C++17 compiler, then pip install --force-reinstall alq-hvd",
}


def require(name: str) -> Any:
    """Import and return the module ``name``.

    Raises:
        BackendUnavailable: with the reason the import failed and the command that fixes it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendUnavailable(f"cannot import {name} ({error}): {_remedy(error.name or name, name)}") from error


def _remedy(missing: str, wanted: str) -> str:
    """Return the remedy for the missing module ``missing``, which importing ``wanted`` needs."""
    for name in (missing, wanted):
        for key in (name, name.split(".")[0]):
            if key in _REMEDIES:
                return _REMEDIES[key]
    return f"pip install {missing.split('.')[0]}"


def available(name: str) -> bool:
    """Return whether ``require(name)`` would succeed."""
    try:
        require(name)
    except BackendUnavailable:
        return False
    return True


def _loaded(name: str) -> Any:
    """Return the module, unless it is still to be imported, or another thread is at it."""
    module = sys.modules.get(name)
    return None if getattr(getattr(module, "__spec__", None), "_initializing", False) else module


def torch() -> Any:
    """Return the module torch."""
    return _loaded("torch") or require("torch")  # asked for with every gradient


def torch_distributed() -> Any:
    """Return the module torch.distributed."""
    return require("torch.distributed")


def horovod() -> Any:
    """Return the module horovod.torch."""
    return _loaded("horovod.torch") or require("horovod.torch")


def mpi() -> Any:
    """Return ``mpi4py.MPI`` without letting mpi4py initialise or finalise MPI on its own.

    Horovod initialises MPI with MPI_THREAD_MULTIPLE; the second user must not do it again.
    """
    require("mpi4py")
    return importlib.import_module("mpi4py.MPI")


def cupy() -> Any:
    """Return the module cupy."""
    return require("cupy")


def native_codec() -> ModuleType:
    """Return the compiled extension of the C++ codec."""
    module: ModuleType = require("alq_hvd.codec._native")
    return module
