"""Every setting of NCCL, UCX and Open MPI in one place; docs/guides/slurm.md says when each matters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from alq_hvd.errors import ConfigurationError

_INTERFACE = re.compile(r"[A-Za-z0-9_.-]+")
_ADAPTER = re.compile(r"[A-Za-z0-9_-]+:\d+")
NCCL_DEBUG_VALUES = ("WARN", "INFO", "VERSION", "TRACE")


@dataclass(frozen=True, slots=True)
class Network:
    """Name what the ranks talk through; nothing named leaves every library to its own search.

    Attributes:
        interface: IP interface (``ib0``, ``eth0``) for start-up messages, and for data where there is no InfiniBand.
        adapters: InfiniBand or RoCE adapters with their ports, such as ``mlx5_0:1``.
        nccl_debug: how much NCCL prints.
    """

    interface: str | None = None
    adapters: Sequence[str] = ()
    nccl_debug: str = "WARN"

    def __post_init__(self) -> None:
        if self.interface is not None and not _INTERFACE.fullmatch(self.interface):
            raise ConfigurationError(f"interface: expected a name such as ib0 or eth0, got {self.interface!r}")
        for adapter in self.adapters:
            if not _ADAPTER.fullmatch(adapter):
                raise ConfigurationError(f"adapters: expected NAME:PORT such as mlx5_0:1, got {adapter!r}")
        if self.nccl_debug not in NCCL_DEBUG_VALUES:
            values = ", ".join(NCCL_DEBUG_VALUES)
            raise ConfigurationError(f"nccl_debug: expected one of {values}, got {self.nccl_debug!r}")

    def variables(self, gpus: bool) -> dict[str, str]:
        """Return the environment variables to set, in the order of the script."""
        chosen: dict[str, str] = {}
        if gpus:
            chosen["NCCL_DEBUG"] = self.nccl_debug
        if self.interface is not None:
            if gpus:
                # "=": this very name; NCCL otherwise takes a prefix, and eth1 would mean eth10 too.
                chosen["NCCL_SOCKET_IFNAME"] = f"={self.interface}"
            chosen["GLOO_SOCKET_IFNAME"] = self.interface
            chosen["OMPI_MCA_oob_tcp_if_include"] = self.interface
            chosen["OMPI_MCA_btl_tcp_if_include"] = self.interface
        if self.adapters:
            if gpus:
                chosen["NCCL_IB_HCA"] = "=" + ",".join(self.adapters)
            chosen["UCX_NET_DEVICES"] = ",".join(self.adapters)
            chosen["OMPI_MCA_pml"] = "ucx"
        return chosen
