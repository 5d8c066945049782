"""What a scheme does to one tensor of weights: error, scales, values and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from alq_hvd.weights.parametrization import as_wide, require_weights
from alq_hvd.weights.schemes import Scheme

Tensor: TypeAlias = Any
SCALE_BYTES = 4


@dataclass(frozen=True, slots=True)
class Measured:
    """Hold one tensor under one scheme.

    Attributes:
        relative_error: |w - q|^2 / |w|^2; 0 for zero weights.
        scales: of the tensor, or of one channel after the other; empty where the scheme has none.
        values: every value a weight may have, increasing; of the first channel where channels have their own.
        used: how many different values the weights took.
        code_bytes: codes of fixed width, packed, and float32 scales.
    """

    name: str
    scheme: str
    bits: int
    shape: tuple[int, ...]
    relative_error: float
    scales: tuple[float, ...]
    values: tuple[float, ...]
    used: int
    code_bytes: int

    @property
    def elements(self) -> int:
        """Return how many weights there are."""
        count = 1
        for length in self.shape:
            count *= length
        return count


def measure(name: str, weights: Tensor, scheme: Scheme) -> Measured:
    """Quantise ``weights`` with the same curvature everywhere, and say what came of it.

    Raises:
        UnsupportedTensor, WeightsError: for weights that cannot be quantised.
    """
    require_weights(weights, name)
    wide = as_wide(weights.detach())
    scales = scheme.solve(wide, None)
    quantised, values = scheme.quantise(wide, scales), scheme.values(wide, scales)
    square = float(wide.double().square().sum())
    count = 0 if scales is None else scales.numel()
    return Measured(
        name=name,
        scheme=scheme.name,
        bits=scheme.bits,
        shape=tuple(weights.shape),
        relative_error=float((wide - quantised).double().square().sum()) / square if square else 0.0,
        scales=() if scales is None else tuple(scales.flatten().tolist()),
        values=tuple((values if values.dim() == 1 else values[0]).tolist()),
        used=len(quantised.unique()),
        code_bytes=-(-wide.numel() * scheme.bits // 8) + SCALE_BYTES * (count or scheme.name == "bwn"),
    )
