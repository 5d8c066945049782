"""From the name of a compression on the command line to what the host is given, and what can be read from it later."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch

from alq_hvd.quantiser.methods import NAMES, usual_bits
from images.front_ends import STOCK, FrontEnd

ITEM_SIZE = {"fp32": 4, "fp16": 2}
"""Bytes of a gradient coordinate on the wire of a stock host."""


def default_bits() -> dict[str, int | None]:
    """Return every name ``--compression`` accepts, with its default bits; ``None`` where there are no codes."""
    return dict.fromkeys(STOCK) | {name: None if name == "none" else usual_bits(name) for name in NAMES}


def build(options: argparse.Namespace, model: torch.nn.Module, front_end: FrontEnd) -> Any:
    """Return what the front end compresses gradients with."""
    how = {
        "bits": options.bits,
        "widths": options.widths,
        "bucket_size": options.bucket_size,
        "exchange": options.exchange,
        "min_elements": options.min_elements,
        "seed": options.seed,
        "measure_every": options.log_every,
        "schedule": options.adapt_at or options.adapt_every,
        "rotate": options.rotate or None,  # None: as the method has it
        "error_feedback": options.error_feedback,
        "break_even": options.measure_break_even,
    }
    return front_end.compression(options.compression, model, how)


def quantise_weights(text: str | None, model: torch.nn.Module, optimizer: Any, front_end: FrontEnd) -> Any:
    """Let the inner layers of ``model`` compute with the scheme that ``text`` names; ``None`` where there is none."""
    if text is None:
        return None
    from alq_hvd.weights import quantize_weights, schemes

    scheme = schemes.from_text(text)
    return quantize_weights(model, scheme.name, scheme.bits, optimizer=optimizer, communicator=front_end.communicator)


@dataclass(frozen=True)
class Reading:
    """Hold what a compression says about itself at one step, on this rank."""

    bytes_sent: int
    relative_variance: float | None
    levels_version: int | None

    def as_scalars(self) -> dict[str, float | None]:
        """Return the values under the names they carry in ``steps.jsonl`` and TensorBoard."""
        return {
            "bytes_sent": self.bytes_sent,
            "relative_variance": self.relative_variance,
            "levels_version": self.levels_version,
        }


class Meter:
    """Read bytes, variance and levels from an alq_hvd compression, or compute them for a stock host."""

    def __init__(
        self, name: str, compression: Any, model: torch.nn.Module, front_end: FrontEnd, adapted_at: int = -1
    ) -> None:
        self._name = name
        self._metrics = getattr(compression, "metrics", None)
        self._options = compression.options.shared() if self._metrics is not None else {}
        self._ranks = front_end.communicator.size
        self._sees_own_gradients = not front_end.reduces_in_backward
        self._parameters = list(model.parameters())
        self.adapted_at = adapted_at
        self._cast_variance: float | None = 0.0 if name == "fp32" else None

    def codec_seconds(self) -> dict[str, float]:
        """Return the cumulative seconds of encode, decode, adapt, and of waiting; zeros for a stock host."""
        if self._metrics is None:
            return dict.fromkeys(("encode", "decode", "adapt", "exchange"), 0.0)
        seconds: dict[str, float] = self._metrics()["seconds"]
        return seconds

    def look_at_gradients(self, step: int, every: int) -> None:
        """Measure, now and then, what rounding this rank's own gradients to fp16 loses; call before the exchange.

        Under DDP they are not visible after the backward pass, so it stays unknown.
        """
        if self._name == "fp16" and self._sees_own_gradients and step % every == 0:
            gradients = (parameter.grad for parameter in self._parameters)
            local = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
            lost = local.half().double() - local
            self._cast_variance = float(lost.square().sum() / local.double().square().sum())

    def read(self) -> Reading:
        """Return the state after the last step."""
        if self._metrics is None:
            return Reading(self._ring_bytes(), self._cast_variance, None)
        now = self._metrics()
        return Reading(now["bytes_per_step"], now["relative_variance"], now["levels_version"])

    def new_adaptations(self) -> list[dict[str, Any]]:
        """Return what became of the levels since the last call of this method."""
        if self._metrics is None:
            return []
        new = [event for event in self._metrics()["adaptations"] if event["step"] > self.adapted_at]
        if new:
            self.adapted_at = new[-1]["step"]
        return new

    def summary(self) -> dict[str, Any]:
        """Return what the report needs at the end of a run."""
        if self._metrics is None:
            # Nothing was measured or exchanged, whatever options of ours the command line had.
            nothing = {"exchange": None, "break_even": None}
            return {"bytes_per_step": self._ring_bytes(), "bytes_are": "computed", "adaptations": [], **nothing}
        now = self._metrics()
        return {
            "bytes_per_step": now["bytes_total"] / max(now["step"], 1),
            "bytes_are": "counted",
            "options": self._options,
            "exchange": now["exchange"],
            "break_even": now["break_even"],
            "adaptations": now["adaptations"],
            "levels": now["levels"],
            "later_shots": now["later_shots"],
        }

    def _ring_bytes(self) -> int:
        """Return what a ring allreduce sends on every rank: 2 (n - 1) / n of the gradient."""
        size = sum(parameter.numel() for parameter in self._parameters) * ITEM_SIZE[self._name]
        return round(2 * (self._ranks - 1) / self._ranks * size)
