"""One order for everything a codec starts on a device, whichever stream is current when it does."""

from __future__ import annotations

from typing import Any

from alq_hvd.codec.cuda_device import Device, Tensor


class StreamOrder:
    """Let each call's stream wait for the stream of the call before.

    Hooks of the backward pass and ``optimizer.step()`` may run under different streams of PyTorch, and so may the hooks
    of one fusion group. Programs with one stream pay a comparison.

    Args:
        device: whose streams.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._last: Any = None
        self._several = False

    def enter(self, *tensors: Tensor) -> None:
        """Order what is started on the current stream after everything that was entered before.

        Args:
            tensors: that it reads or writes. Where several streams are in use, one of the others may have allocated
                them: their memory must not be given away, when they are dropped, before this stream is done with it.
        """
        current = self._device.stream
        if self._last is not None and self._last != current:
            self._device.follow(self._last)
            self._several = True
        self._last = current
        if self._several:
            for tensor in tensors:
                self._device.keep(tensor)
