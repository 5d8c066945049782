"""Packed low-bit gradients with learned levels, through the stock Horovod keyword.

``alq_hvd.Compression.alq(bits=3, named_parameters=model.named_parameters())`` goes into
``hvd.DistributedOptimizer(compression=...)``; ``alq_hvd.ddp`` does the same for ``DistributedDataParallel``. Importing
this package imports nothing heavy: torch, Horovod and NumPy come with the first use of a name that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from alq_hvd import errors, log
from alq_hvd.errors import AlqError
from alq_hvd.version import __version__

if TYPE_CHECKING:
    from alq_hvd import weights
    from alq_hvd.engine.adaptation.schedule import Schedule
    from alq_hvd.frontends import ddp, fsdp
    from alq_hvd.frontends.functional import Allreduce, allreduce_
    from alq_hvd.frontends.horovod.compression import Compression
    from alq_hvd.quantiser.levels import Levels
    from alq_hvd.quantiser.statistics import GradientStatistics

__all__ = [
    "Allreduce",
    "AlqError",
    "Compression",
    "GradientStatistics",
    "Levels",
    "Schedule",
    "__version__",
    "allreduce_",
    "ddp",
    "errors",
    "fsdp",
    "weights",
]


_LAZY = {
    "Allreduce": "alq_hvd.frontends.functional",
    "Compression": "alq_hvd.frontends.horovod.compression",
    "GradientStatistics": "alq_hvd.quantiser.statistics",
    "Levels": "alq_hvd.quantiser.levels",
    "Schedule": "alq_hvd.engine.adaptation.schedule",
    "allreduce_": "alq_hvd.frontends.functional",
}


_ROOMS = {"ddp": "alq_hvd.frontends.ddp", "fsdp": "alq_hvd.frontends.fsdp", "weights": "alq_hvd.weights"}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        log.start()
        return import_module(_ROOMS[name])
    if name in _LAZY:
        log.start()
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'alq_hvd' has no attribute {name!r}")
