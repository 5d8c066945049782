"""One level table a width of code: what is in force where every block of buckets has a width of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.levels import MAXIMUM_BITS, Levels, digest_of

SHOWN_WIDTH = 3
"""Bits: the table that stands for all where only one can be shown, as in metrics."""

MOST_PACKED = 2 ** (MAXIMUM_BITS + 1) + 2 * MAXIMUM_BITS
"""Numbers of the largest ``packed``, rounded up."""


@dataclass(frozen=True, eq=False)
class LevelsByWidth:
    """Hold the tables of all widths from ``lowest`` on, and what each of them loses.

    Attributes:
        lowest: bits of the first table; smaller widths are not used. Every next table is a bit wider, up to 8.
        tables: one a width; their versions say nothing.
        errors: float32[len(tables)], by table: the expected squared error of a block over its squared norm.
        version: how many adaptations led here; 0 is the initial tables.

    Raises:
        ConfigurationError: tables are missing or too large for their widths, or an error is not positive and finite.
    """

    lowest: int
    tables: tuple[Levels, ...]
    errors: npt.NDArray[np.float32]
    version: int = 0

    def __post_init__(self) -> None:
        if self.lowest < 1 or self.lowest + len(self.tables) != MAXIMUM_BITS + 1:
            raise ConfigurationError(
                f"expected a table of levels for each width from the lowest to {MAXIMUM_BITS}, got {len(self.tables)} "
                f"from {self.lowest} bits on"
            )
        for width, table in enumerate(self.tables, self.lowest):
            if table.minimum_bits > width:
                raise ConfigurationError(f"expected at most {2**width} levels of {width} bits, got {len(table)}")
        errors = np.array(self.errors, dtype=np.float32).ravel()
        if errors.size != len(self.tables) or not (np.isfinite(errors) & (errors > 0)).all():
            raise ConfigurationError(f"expected {len(self.tables)} positive errors, got {errors.tolist()}")
        if self.version < 0:
            raise ConfigurationError(f"expected a version of 0 or more, got {self.version}")
        errors.flags.writeable = False
        object.__setattr__(self, "errors", errors)

    def at(self, width: int) -> Levels:
        """Return the table of codes of ``width`` bits, from ``lowest`` to 8."""
        return self.tables[width - self.lowest]

    @property
    def widths(self) -> range:
        """Return the widths that codes may have."""
        return range(self.lowest, MAXIMUM_BITS + 1)

    @property
    def minimum_bits(self) -> int:
        """Return the largest width."""
        return MAXIMUM_BITS

    @property
    def values(self) -> npt.NDArray[np.float32]:
        """Return the table of three bits, or of the lowest width if that is more."""
        return self.at(max(SHOWN_WIDTH, self.lowest)).values

    @cached_property
    def packed(self) -> npt.NDArray[np.float32]:
        """Return float32[n], all of it but the version: lowest width, lengths of the tables, tables, errors."""
        lengths = np.array([self.lowest, *map(len, self.tables)], dtype=np.float32)
        return np.concatenate([lengths, *(table.values for table in self.tables), self.errors])

    @cached_property
    def digest(self) -> int:
        """Return 32 bits that identify tables and errors (not the version), the same on every platform."""
        return digest_of(self.packed)

    def unpacked(self, packed: npt.NDArray[np.float32], version: int) -> LevelsByWidth:
        """Return what ``packed`` describes, of the same widths as this.

        Raises:
            ConfigurationError: it describes nothing of the kind.
        """
        count = len(self.tables)
        lengths = packed[1 : 1 + count].astype(np.int64)
        if packed.size < 1 + count or int(packed[0]) != self.lowest or packed.size != 1 + 2 * count + lengths.sum():
            raise ConfigurationError(f"expected level tables from {self.lowest} bits on, got something else")
        parts = np.split(packed[1 + count :], np.cumsum(lengths))
        return LevelsByWidth(self.lowest, tuple(map(Levels, parts[:-1])), parts[-1], version)

    def next_version(self, tables: Sequence[Levels], errors: npt.ArrayLike) -> LevelsByWidth:
        """Return the tables that follow these in the history of adaptations."""
        return LevelsByWidth(self.lowest, tuple(tables), np.asarray(errors, dtype=np.float32), self.version + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the tables as plain Python values, for checkpoints."""
        tables = [table.values.tolist() for table in self.tables]
        return {"lowest": self.lowest, "tables": tables, "errors": self.errors.tolist(), "version": self.version}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> LevelsByWidth:
        """Return the tables that ``state_dict`` described."""
        tables = tuple(Levels(np.asarray(values, dtype=np.float32)) for values in state["tables"])
        return cls(int(state["lowest"]), tables, np.asarray(state["errors"], dtype=np.float32), int(state["version"]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LevelsByWidth):
            return NotImplemented
        return self.version == other.version and np.array_equal(self.packed, other.packed)

    def __hash__(self) -> int:
        return hash((self.version, self.digest))

    def __str__(self) -> str:
        errors = ", ".join(f"{width} bits {error:.3g}" for width, error in zip(self.widths, self.errors, strict=True))
        return f"v{self.version} by width, relative variance {errors}"


AnyLevels = Levels | LevelsByWidth
"""What a record was made with: one table, or one a width."""
