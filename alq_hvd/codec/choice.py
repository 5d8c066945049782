"""Which codec serves: the fastest there is where the gradients live, unless the user names one."""

from __future__ import annotations

import logging
from typing import Any, Protocol

from alq_hvd import backends
from alq_hvd.codec.base import Codec
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.codec.cuda_device import CudaDevices, Device
from alq_hvd.codec.native import NativeCodec
from alq_hvd.codec.reference import ReferenceCodec
from alq_hvd.errors import BackendUnavailable, UnsupportedTensor

NAMES = ("auto", "native", "reference", "cuda")
_logger = logging.getLogger(__name__)


class Devices(Protocol):
    """Know which tensors live on a device that kernels run on."""

    def require(self) -> None:
        """Raise ``BackendUnavailable`` when kernels cannot run at all."""
        ...

    def of(self, tensor: Any) -> Device | None:
        """Return the device of ``tensor``; ``None`` for one that lives on the host."""
        ...


class Codecs:
    """Give each gradient the codec of the place where it lives.

    Args:
        name: one of ``NAMES``. ``"native"`` and ``"reference"``: a codec of the host, for gradients of devices too,
            which are copied unencoded. ``"cuda"``: the codec of the device, and no other. ``"auto"``: the better one.
        devices: tells them from the host.

    Raises:
        BackendUnavailable: what ``name`` needs is not installed.
    """

    def __init__(self, name: str, devices: Devices | None = None) -> None:
        self.host = choose_codec("auto" if name == "cuda" else name)
        self._name = name
        self._devices = devices or CudaDevices()
        self._on: dict[Device, CudaCodec] = {}
        self._unusable = False
        if name == "cuda":
            self._devices.require()

    def place(self, tensor: Any) -> Device | None:
        """Return the device on which ``tensor`` is to be encoded; ``None`` for the host.

        Where ``"auto"`` finds a device on which kernels cannot run, it says so once, and the host serves.

        Raises:
            UnsupportedTensor: it lives on the host, and the codec named serves devices only.
            BackendUnavailable: the codec named cannot run on its device.
        """
        if self._name in ("native", "reference") or self._unusable:
            return None
        try:
            device = self._devices.of(tensor)
            if device is not None:
                self._devices.require()
        except BackendUnavailable as reason:
            if self._name == "cuda":
                raise
            self._unusable = True
            _logger.warning("gradients on %s are copied to the host before they are encoded: %s", tensor.device, reason)
            return None
        if device is None and self._name == "cuda":
            raise UnsupportedTensor(
                f'codec="cuda": expected gradients on a CUDA device, got one of shape {tuple(tensor.shape)} on '
                f'{tensor.device}: move the model to a device, or use codec="auto"'
            )
        return device

    def on(self, device: Device) -> CudaCodec:
        """Return the codec of ``device``, the same at every call."""
        if device not in self._on:
            self._on[device] = CudaCodec(device)
        return self._on[device]


def choose_codec(name: str) -> Codec:
    """Return the codec of the host: ``"reference"``, ``"native"``, or the better of the two for ``"auto"``.

    Raises:
        BackendUnavailable: ``"native"`` was asked for and is not compiled.
    """
    if name == "reference":
        return ReferenceCodec()
    if name == "native" or backends.available("alq_hvd.codec._native"):
        return NativeCodec()
    _logger.warning("the C++ codec is not compiled; using NumPy, about seventy times slower. Run `alq-hvd doctor`")
    return ReferenceCodec()
