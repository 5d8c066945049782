"""The gradient quantiser of Hou, Zhang, Kwok (ICLR 2019): SQ-m, one scale a tensor, with clipping before it.

Training over Horovod has it as ``Compression.qsgdinf(bits=m, zero_level=True, clip=c)``, with a scale a bucket.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Wire:
    """Say what happens to gradients on the wire: ``bits=None`` sends them as they are."""

    bits: int | None = None
    clip: float | None = None

    @property
    def label(self) -> str:
        if self.bits is None:
            return "FP"
        return f"SQ{self.bits}" + (f" c {self.clip:g}" if self.clip else "")

    def send(self, gradient: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return what the others decode."""
        if self.bits is None:
            return gradient
        steps = 2 ** (self.bits - 1) - 1
        if self.clip:
            reach = float(self.clip * gradient.std(correction=0))
            gradient = gradient.clamp(-reach, reach)
        scale = gradient.abs().max().clamp(min=1e-30)
        draws = torch.rand(gradient.shape, generator=generator, dtype=gradient.dtype)
        levels = (gradient.abs() / scale * steps + draws).floor().clamp(max=steps)
        return scale * gradient.sign() * levels / steps
