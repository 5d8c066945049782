"""Whether compression pays: measured times of a small and a large message, and the line through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PLAIN = "fp32"
"""The host's own all-reduce of float32: what happens without this package, and what it must not be slower than."""
HALF = "fp16"
MARGIN = 0.25
"""Compression must promise to save at least this share of the time: predictions from a few messages are not better."""


@dataclass(frozen=True, slots=True)
class Line:
    """Predict the seconds of a message as ``fixed + per_element * elements``."""

    fixed: float
    per_element: float

    @classmethod
    def through(cls, small: tuple[int, float], large: tuple[int, float]) -> Line:
        """Return the line through two measurements (elements, seconds), with neither term below zero."""
        slope = max(0.0, (large[1] - small[1]) / (large[0] - small[0]))
        return cls(max(0.0, large[1] - slope * large[0]), slope)

    def seconds(self, messages: Sequence[int]) -> float:
        """Return the time of messages of so many elements, one after another."""
        return sum(self.fixed + self.per_element * elements for elements in messages)


@dataclass(frozen=True, slots=True)
class Decision:
    """Say how gradients travel from now on, the same on every rank.

    Attributes:
        choice: the exchange to use, or ``PLAIN``: leave gradients to the host's all-reduce.
        seconds: predicted for one step's gradients, by exchange and by plain all-reduce in float32 and float16.
        fusion_elements: of a group; ``None`` where that was not measured.
    """

    choice: str
    seconds: dict[str, float]
    fusion_elements: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain values, from which ``Decision(**values)`` makes the decision again."""
        return {"choice": self.choice, "seconds": self.seconds, "fusion_elements": self.fusion_elements}

    def __str__(self) -> str:
        predicted = ", ".join(f"{name} {seconds * 1e3:.3g} ms" for name, seconds in self.seconds.items())
        if self.choice == PLAIN:
            return f"compression would not pay here ({predicted} a step): gradients go to the plain all-reduce, exact"
        fused = "" if self.fusion_elements is None else f" in groups of {self.fusion_elements} coordinates"
        return f"gradients travel by {self.choice}{fused} ({predicted} a step)"


def decide(lines: Mapping[str, Line], groups: Sequence[int]) -> Decision:
    """Return the fastest exchange if it beats plain float32 by more than ``MARGIN``, else plain all-reduce.

    Both predictions lean towards plain all-reduce: it is taken to fuse all gradients into one message, and every
    exchange to wait, on top of its groups, for one more small message.

    Plain float16 is predicted for comparison only: switching to it would change numbers the user did not ask to change.

    Args:
        lines: of ``PLAIN``, perhaps ``HALF``, and of every exchange.
        groups: elements of each fusion group of a step.
    """
    stock = [name for name in lines if name in (PLAIN, HALF)]
    exchanges = [name for name in lines if name not in stock]
    probes = lines[PLAIN].fixed
    seconds = {name: lines[name].seconds([sum(groups)]) for name in stock}
    seconds |= {name: lines[name].seconds(groups) + probes for name in exchanges}
    fastest = min(exchanges, key=lambda name: seconds[name])
    pays = seconds[fastest] < (1 - MARGIN) * seconds[PLAIN]
    return Decision(fastest if pays else PLAIN, seconds)
