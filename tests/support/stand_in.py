"""Horovod's calling order without Horovod: each ``compress`` of a step, then each ``decompress``, over loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alq_hvd.communicator.base import Pending
from alq_hvd.communicator.loopback import LoopbackCommunicator

Reduce = Callable[[list[np.ndarray]], np.ndarray]


def average(parts: list[np.ndarray]) -> np.ndarray:
    """Average as Horovod does: sum, then multiply by 1 / size."""
    return np.sum(parts, axis=0, dtype=parts[0].dtype) * parts[0].dtype.type(1 / len(parts))


def total(parts: list[np.ndarray]) -> np.ndarray:
    """Add."""
    return np.sum(parts, axis=0, dtype=parts[0].dtype)


def adasum(parts: list[np.ndarray]) -> np.ndarray:
    """Combine pairwise as Adasum does (Maleki et al., 2021, equation 2)."""
    while len(parts) > 1:
        parts = [_adasum_pair(a, b) for a, b in zip(parts[0::2], parts[1::2], strict=True)]
    return parts[0]


def _adasum_pair(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    dot = float(np.dot(a.ravel(), b.ravel()))
    return (1 - dot / (2 * float(np.dot(a.ravel(), a.ravel())))) * a + (
        1 - dot / (2 * float(np.dot(b.ravel(), b.ravel())))
    ) * b


@dataclass(frozen=True)
class Sent:
    """Keep what Horovod keeps of a tensor between ``compress`` and ``decompress``."""

    name: str
    compressed: torch.Tensor
    context: Any
    pending: Pending[list[np.ndarray]]


def send(
    ranks: LoopbackCommunicator, compression: Any, gradients: Iterable[tuple[str, torch.Tensor]], prefix: str = ""
) -> list[Sent]:
    """Compress named gradients, in the order given, and start to reduce what came out."""
    sent = []
    for name, gradient in gradients:
        compressed, context = compression.compress(gradient)
        payload = np.frombuffer(compressed.detach().cpu().numpy().tobytes(), dtype=np.uint8)
        sent.append(Sent(name, compressed, context, ranks.allgather(payload, f"allreduce.{prefix}{name}")))
    return sent


def fetch(compression: Any, sent: Sent, reduce: Reduce = average) -> torch.Tensor:
    """Return the reduced gradient."""
    dtype, shape = sent.compressed.cpu().numpy().dtype, tuple(sent.compressed.shape)
    parts = [raw.view(dtype).reshape(shape) for raw in sent.pending.wait()]
    reduced = torch.from_numpy(np.ascontiguousarray(reduce(parts).astype(dtype, copy=False)))
    result: torch.Tensor = compression.decompress(reduced.to(sent.compressed.device), sent.context)
    return result


def reduce_gradients(
    ranks: LoopbackCommunicator,
    compression: Any,
    gradients: Sequence[tuple[str, torch.Tensor]],
    reduce: Reduce = average,
) -> dict[str, torch.Tensor]:
    """Reduce named gradients once, handing them over in the order given, as ``hvd.DistributedOptimizer`` would."""
    return {each.name: fetch(compression, each, reduce) for each in send(ranks, compression, gradients)}
