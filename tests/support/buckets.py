"""Hand gradients over as DDP does: in buckets, each a flat buffer, in one order on every rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Bucket:
    """Represent a ``torch.distributed.GradBucket``."""

    number: int
    last: bool
    flat: torch.Tensor
    of: list[torch.nn.Parameter]

    def index(self) -> int:
        return self.number

    def is_last(self) -> bool:
        return self.last

    def buffer(self) -> torch.Tensor:
        return self.flat

    def parameters(self) -> list[torch.nn.Parameter]:
        return self.of

    def gradients(self) -> list[torch.Tensor]:
        parts = self.flat.split([parameter.numel() for parameter in self.of])
        return [part.view(parameter.shape) for part, parameter in zip(parts, self.of, strict=True)]


def buckets(parameters: Mapping[str, torch.nn.Parameter], names: Sequence[Sequence[str]]) -> list[Bucket]:
    """Return buckets of the gradients of ``names``."""
    made = []
    for number, inside in enumerate(names):
        of = [parameters[name] for name in inside]
        flat = torch.cat([parameter.grad.reshape(-1) for parameter in of])  # type: ignore[union-attr]
        made.append(Bucket(number, number == len(names) - 1, flat, of))
    return made


def reduce_buckets(state: Any, made: Sequence[Bucket]) -> list[torch.Tensor]:
    """Call the hook for every bucket, and return the means, bucket by bucket, as the backward pass takes them."""
    futures = [state.reduce(bucket) for bucket in made]
    return [future.wait() for future in futures]
