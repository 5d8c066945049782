"""A device that counts the kernels it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alq_hvd.codec.cuda_device import Device, Download, Tensor


@dataclass(frozen=True)
class CountedDevice:
    """Wrap ``device`` and record every launch.

    Attributes:
        device: that does the work.
        launched: names of the kernels that were started, in order.
    """

    device: Device
    launched: list[str] = field(default_factory=list, compare=False)

    def launches_of(self, work: Callable[[], object]) -> int:
        """Return how many kernels one ``work`` starts, once it is warm."""
        work()
        before = len(self.launched)
        work()
        return len(self.launched) - before

    @property
    def name(self) -> str:
        """Return its name."""
        return self.device.name

    @property
    def shared_bytes(self) -> int:
        """Return its shared memory."""
        return self.device.shared_bytes

    @property
    def stream(self) -> Any:
        """Return its stream."""
        return self.device.stream

    def follow(self, stream: Any) -> None:
        """Let it follow."""
        self.device.follow(stream)

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Ask it."""
        return self.device.holds(tensors)

    def launch(self, name: str, blocks: int, arguments: Sequence[Any], shared_bytes: int = 0) -> None:
        """Count, and start the kernel; a launch of no blocks is none."""
        if blocks:
            self.launched.append(name)
        self.device.launch(name, blocks, arguments, shared_bytes)

    def upload(self, *arrays: np.ndarray) -> Tensor:
        """Let it upload."""
        return self.device.upload(*arrays)

    def download(self, tensors: Sequence[Tensor]) -> Download:
        """Let it download."""
        return self.device.download(tensors)

    def keep(self, tensor: Tensor) -> None:
        """Let it keep."""
        self.device.keep(tensor)

    def synchronize(self) -> None:
        """Wait for it."""
        self.device.synchronize()
