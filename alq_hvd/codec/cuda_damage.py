"""Damage that a device found in records, in a word of its memory that the host need not wait for."""

from __future__ import annotations

import numpy as np

from alq_hvd import backends
from alq_hvd.codec.cuda_device import Device, Tensor
from alq_hvd.errors import WireFormatError

_TEXTS = {
    1: "a header that differs from the expected one",
    2: "a checksum that does not fit the bytes",
    4: "widths that no such record has",
}
"""By the bits kHeaderDiffers, kChecksumDiffers and kWidthsDiffer of ``cuda/decode.cuh``."""


class Damage:
    """Hold the word in which the decoders of one codec note what is wrong; zero while nothing is.

    Args:
        device: that decodes.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._word: Tensor | None = None

    def word(self) -> Tensor:
        """Return torch.uint8[4] on the device: a uint32."""
        if self._word is None:
            self._word = self._device.upload(np.zeros(1, dtype=np.uint32))
            self._device.synchronize()  # once: whichever stream decodes first, the word is there
        return self._word

    def address(self) -> int:
        """Return the address of the word."""
        return int(self.word().data_ptr())

    def take(self) -> int:
        """Wait for what the current stream has been given, return the word and clear it."""
        found = int(self.word().view(backends.torch().int32)[0])
        if found:
            self.word().zero_()
        return found

    def refuse(self, found: int) -> None:
        """Raise ``WireFormatError`` when the word was ``found`` to be other than zero."""
        if found:
            what = " and ".join(text for bit, text in _TEXTS.items() if found & bit)
            raise WireFormatError(
                f"expected whole records of the agreed configuration, got one with {what} on {self._device.name}: "
                "start every rank with the same options, and check the network if they were"
            )
