"""Packed low-bit gradients with learned levels, through the stock Horovod keyword.

``alq_hvd.Compression.alq(bits=3, named_parameters=model.named_parameters())`` goes into
``hvd.DistributedOptimizer(compression=...)``. Importing this package imports neither torch nor Horovod; the first use of
``Compression`` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alq_hvd import errors
from alq_hvd.adaptation.schedule import Schedule
from alq_hvd.errors import AlqError
from alq_hvd.levels import Levels
from alq_hvd.statistics import GradientStatistics
from alq_hvd.version import __version__

if TYPE_CHECKING:
    from alq_hvd.constructors import Compression

__all__ = ["AlqError", "Compression", "GradientStatistics", "Levels", "Schedule", "__version__", "errors"]


def __getattr__(name: str) -> Any:
    if name == "Compression":
        from alq_hvd.constructors import Compression

        return Compression
    raise AttributeError(f"module 'alq_hvd' has no attribute {name!r}")
