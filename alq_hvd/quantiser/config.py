"""How a coordinate becomes a code: the validated, frozen configuration that every rank must share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.levels import MAXIMUM_BITS, Levels
from alq_hvd.quantiser.levels_by_width import AnyLevels, LevelsByWidth

Norm = Literal["l2", "linf"]
NORMS: tuple[Norm, ...] = get_args(Norm)
Rounding = Literal["stochastic", "nearest"]
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)
MAXIMUM_BUCKET_SIZE = 2**24
SMALLEST_BUDGET = 0.5
SMALLEST_BLOCK = 1024
"""Coordinates whose codes have one width where buckets are smaller: a tile, which is packed by itself."""
DEFAULT_BUCKET_SIZE = 1024
"""Norms cost 1 % of a 3-bit code; ALQ has a third of the variance it has at 8192 (docs/decisions/0008)."""
LARGEST_CENTROIDS = (0.7978846, 1.5104176, 2.1519457, 2.7325896, 3.2607325, 3.7441013, 4.1896942, 4.6035356)
"""By bits, the outermost of the 2^bits levels of least squared error for a standard normal coordinate (Lloyd and Max).
Coordinates rounded to the nearest are divided by so many standard deviations, which puts that level at 1."""
NEAREST_ERRORS = (0.5707962, 0.1331212, 0.0357840, 0.0095921, 0.0025110, 0.00064466, 0.00016351, 0.000041187)
"""By bits, |Q(v) - v|^2 / |v|^2 of normal coordinates in rounding to the nearest: D / (1 - D), D Lloyd and Max's."""


@dataclass(frozen=True, slots=True)
class QuantiserConfig:
    """Fix how one stream of gradients is quantised.

    Attributes:
        bits: width of a packed code, 1 to 8. More bits: more bytes, less quantisation variance. With a budget: the
            largest width there may be.
        bucket_size: coordinates that share one norm. Larger: fewer norms on the wire (32/bucket_size bits a
            coordinate), more variance.
        norm: the scale of a bucket, ``"l2"`` or ``"linf"`` (largest magnitude).
        clip: clamp every coordinate to ``clip`` standard deviations of its bucket *before* the norm is taken
            (TernGrad's order); ``None`` does not clamp. Smaller: less variance, more bias.
        rotate: make every bucket look normal before anything else: random signs, then a Walsh-Hadamard transform. Less
            variance wherever coordinates are heavier-tailed than a normal, for more arithmetic.
        rounding: ``"stochastic"`` is unbiased whatever the levels. ``"nearest"`` sends the scale at which the decoded
            bucket's projection on the gradient is exact; it has a third of the variance, and is nearly unbiased only
            for buckets rotated twice, which it implies: see docs/decisions/0010-rotation.md.
        dither: a receiver draws the numbers of the rounding again and takes away what of its error they tell: a little
            more than half of the variance is left, and no zero stays zero. Only where one rank draws for itself.

    Raises:
        ConfigurationError: naming the option, its valid values and the value received.
    """

    bits: int
    bucket_size: int = DEFAULT_BUCKET_SIZE
    norm: Norm = "l2"
    clip: float | None = None
    rotate: bool = False
    rounding: Rounding = "stochastic"
    dither: bool = False
    budget: float | None = None

    def __post_init__(self) -> None:
        require_int("bits", self.bits, 1, MAXIMUM_BITS)
        require_int("bucket_size", self.bucket_size, 1, MAXIMUM_BUCKET_SIZE)
        if self.norm not in NORMS:
            raise ConfigurationError(f"norm: expected one of {', '.join(NORMS)}, got {self.norm!r}")
        if self.clip is not None and not (math.isfinite(self.clip) and self.clip > 0):
            raise ConfigurationError(f"clip: expected a positive number of standard deviations, got {self.clip!r}")
        if not isinstance(self.rotate, bool):
            raise ConfigurationError(f"rotate: expected True or False, got {self.rotate!r}")
        if self.rounding not in ROUNDINGS:
            raise ConfigurationError(f"rounding: expected one of {', '.join(ROUNDINGS)}, got {self.rounding!r}")
        if self.dither and self.rounding == "nearest":
            raise ConfigurationError("dither: rounding to nearest draws no random numbers: leave it out")
        if self.rounding == "nearest" and not (self.rotate and self.norm == "l2"):
            raise ConfigurationError(
                f"rounding: 'nearest' needs rotate=True and norm='l2', got rotate={self.rotate} and "
                f"norm={self.norm!r}: without the rotation it would be biased, and it sends a scale of its own"
            )
        if self.budget is not None:
            self._check_budget(self.budget)

    def _check_budget(self, budget: float) -> None:
        if not isinstance(budget, int | float) or not SMALLEST_BUDGET <= budget <= self.bits:
            raise ConfigurationError(
                f"bits: expected a mean of {SMALLEST_BUDGET} to {self.bits} bits with adaptive widths, got {budget!r}"
            )
        if self.bucket_size % SMALLEST_BLOCK and SMALLEST_BLOCK % self.bucket_size:
            raise ConfigurationError(
                f"bucket_size: adaptive widths need a divisor or a multiple of {SMALLEST_BLOCK}, got {self.bucket_size}"
            )

    @property
    def mean_bits(self) -> float:
        """Return the width of a code, or the mean of its widths."""
        return self.bits if self.budget is None else self.budget

    @property
    def block_size(self) -> int:
        """Return how many coordinates share a width, where widths differ."""
        return max(self.bucket_size, SMALLEST_BLOCK)

    def at(self, width: int) -> QuantiserConfig:
        """Return how coordinates become codes in a block of this width."""
        return replace(self, bits=width, budget=None)

    @property
    def reach(self) -> float:
        """Return how many standard deviations 1 stands for, in rounding to the nearest."""
        return LARGEST_CENTROIDS[self.bits - 1]

    @property
    def rounds(self) -> int:
        """Return how many times a bucket is rotated: not at all, once, or twice for rounding to the nearest."""
        return int(self.rotate) * (2 if self.rounding == "nearest" else 1)

    def require_fit(self, levels: AnyLevels) -> None:
        """Raise ``ConfigurationError`` unless ``levels`` are of the right kind, and ``bits`` can index them."""
        if isinstance(levels, LevelsByWidth) != (self.budget is not None):
            wanted = "one table of levels" if self.budget is None else "a table of levels for each width"
            raise ConfigurationError(f"expected {wanted}, got {type(levels).__name__}")
        if levels.minimum_bits > self.bits:
            count = f"{len(levels)}" if isinstance(levels, Levels) else "more"
            raise ConfigurationError(
                f"expected at most {2**self.bits} levels at {self.bits} bits, got {count}: "
                f"use bits={levels.minimum_bits} or more"
            )


def require_int(name: str, value: object, low: int, high: int) -> None:
    """Raise ``ConfigurationError`` unless ``value`` is an int (not a bool) in ``low..high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigurationError(f"{name}: expected an integer from {low} to {high}, got {value!r}")
