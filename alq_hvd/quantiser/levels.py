"""The table of representable values: a frozen value that knows its invariants, its digest and its version."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from alq_hvd.errors import ConfigurationError

MAXIMUM_BITS = 8
MINIMUM_GAP = 1e-7
"""Smallest distance of two neighbouring levels, after rounding to float32 (spec section 10, pitfall 9)."""


@dataclass(frozen=True, eq=False)
class Levels:
    """Hold the increasing table of representable values of a normalised coordinate.

    Attributes:
        values: float32[count], strictly increasing within [-1, 1], at least two, at most 256; read-only.
        version: how many adaptations led here; 0 is the initial table.

    Raises:
        ConfigurationError: when a value is not finite, outside [-1, 1], out of order or too close to its neighbour.
    """

    values: npt.NDArray[np.float32]
    version: int = 0

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float32).ravel()
        if not 2 <= values.size <= 2**MAXIMUM_BITS:
            raise ConfigurationError(f"expected 2 to {2**MAXIMUM_BITS} levels, got {values.size}")
        if not np.all(np.isfinite(values)) or values[0] < -1 or values[-1] > 1:
            raise ConfigurationError(f"expected finite levels within [-1, 1], got {values.tolist()}")
        if not np.all(np.diff(values.astype(np.float64)) >= MINIMUM_GAP):
            raise ConfigurationError(
                f"expected strictly increasing levels at least {MINIMUM_GAP:g} apart, got {values.tolist()}"
            )
        if self.version < 0:
            raise ConfigurationError(f"expected a version of 0 or more, got {self.version}")
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    @cached_property
    def digest(self) -> int:
        """Return 32 bits that identify the values (not the version), the same on every platform."""
        return digest_of(self.values)

    @cached_property
    def inverse_gaps(self) -> npt.NDArray[np.float32]:
        """Return float32[count]: 1 / (next level - level); 0 for the last, above which nothing is rounded up."""
        gaps = np.zeros_like(self.values)
        gaps[:-1] = np.float32(1) / np.diff(self.values)
        gaps.flags.writeable = False
        return gaps

    @property
    def minimum_bits(self) -> int:
        """Return the smallest number of bits whose codes can index every level."""
        return (len(self) - 1).bit_length()

    @cached_property
    def dither(self) -> np.float32:
        """Return the width of the dither that a receiver takes away again: sum 1/w over sum 1/w^2 of the gaps w.

        Any width leaves rounding unbiased. This one is the mean gap where density falls as 1/w^3, as it does for levels
        of least variance; for others it is rather too small. The sums are exact, so every rank has the same.
        """
        gaps = np.diff(self.values.astype(np.float64)).tolist()
        return np.float32(math.fsum(1 / gap for gap in gaps) / math.fsum(1 / gap**2 for gap in gaps))

    @property
    def packed(self) -> npt.NDArray[np.float32]:
        """Return float32[count], all of it but the version."""
        return self.values

    def unpacked(self, packed: npt.NDArray[np.float32], version: int) -> Levels:
        """Return the table that ``packed`` describes."""
        return Levels(packed, version)

    def next_version(self, values: npt.ArrayLike) -> Levels:
        """Return the table that follows this one in the history of adaptations."""
        return Levels(np.asarray(values, dtype=np.float32), self.version + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the table as plain Python values, for checkpoints."""
        return {"values": self.values.tolist(), "version": self.version}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Levels:
        """Return the table that ``state_dict`` described."""
        return cls(np.asarray(state["values"], dtype=np.float32), int(state["version"]))

    def __len__(self) -> int:
        return int(self.values.size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Levels):
            return NotImplemented
        return self.version == other.version and np.array_equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash((self.version, self.digest))

    def __str__(self) -> str:
        inside = ", ".join(f"{value:+.4g}" for value in self.values)
        return f"v{self.version} [{inside}]"


def digest_of(values: npt.NDArray[np.float32]) -> int:
    """Return 32 bits that identify float32 values, whether or not they make valid levels."""
    little_endian = values.astype("<f4").tobytes()
    return int.from_bytes(hashlib.blake2b(little_endian, digest_size=4).digest(), "little")
