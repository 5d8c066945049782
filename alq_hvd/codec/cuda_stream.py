"""One order for everything a codec starts on a device, whichever stream is current when it does."""

from __future__ import annotations

from typing import Any

from alq_hvd.codec.cuda_device import Device


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

    def enter(self) -> None:
        """Order what is started on the current stream after everything that was entered before."""
        current = self._device.stream
        if self._last is not None and self._last != current:
            self._device.follow(self._last)
        self._last = current
