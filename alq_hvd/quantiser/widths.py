"""Which block of a record gets how many bits: the most error taken away by every bit of a budget.

By reverse water-filling a block's best width follows its energy: one threshold for all, a step for every further bit.
All of this is integers, so that every codec comes to the same widths; ``docs/wire-format.md`` is its prose and
``docs/decisions/0017-widths.md`` says why it is so. A receiver reads widths in the record and needs nothing of this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alq_hvd.quantiser.levels import MAXIMUM_BITS
from alq_hvd.quantiser.levels_by_width import LevelsByWidth
from alq_hvd.quantiser.record import WIDEST_ROOM, RecordLayout, word_rows

Integers = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

STEPS_LOG2 = 3
STEPS = 1 << STEPS_LOG2
"""Keys count eighths of an octave of energy."""
SMALLEST_ENERGY, LARGEST_ENERGY = 2.0**-252, float(np.finfo(np.float32).max) ** 2
"""Squares of the smallest and of the largest norm that is sent."""
WHOLE = 1 << 16
"""A chance of one, that a block is kept."""
CHANCES = tuple(round(WHOLE * 2 ** (-step / (2 * STEPS))) for step in range(2 * STEPS))
"""A block whose key lies so many steps below the threshold is kept with this chance; 16 further down, half as often."""
NEVER = 1 << 20
"""Steps: no block has so much energy."""
NO_KEY = -(1 << 30)
"""The key of a block without energy: it has no bits."""
DRAW_INDEX = 1 << 31
"""Added to the first element of a record for the index of the one draw that decides which blocks are kept."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """Say how widths grow with energy.

    Attributes:
        base: the smallest width there is, 1 to 4.
        steps: int of each width from ``base`` to 8: by how much a block's key must exceed the threshold to have it; 0
            first, never decreasing.
        keeps_all: blocks below the threshold are kept at random with ``base`` bits and a norm that makes up for it, so
            that no block is lost in the mean; else they are left out.
    """

    base: int
    steps: tuple[int, ...]
    keeps_all: bool

    @classmethod
    def of(cls, levels: LevelsByWidth, keeps_all: bool) -> Ladder:
        """Return the ladder of least error for tables with these errors.

        Below ``base``, a block kept with chance p has the error (1 + e) / p - 1 for p b bits: ``base`` is the b of
        least b (1 + e). A block that is left out has the error 1: there it is that of least b / (1 - e).
        """
        errors = {width: float(error) for width, error in zip(levels.widths, levels.errors, strict=True)}
        few = [width for width in errors if width <= WIDEST_ROOM]
        if keeps_all:
            base = min(few, key=lambda width: (1 + errors[width]) * width)
            slope = (1 + errors[base]) / base
        else:
            base = max(few, key=lambda width: (1 - errors[width]) / width)
            slope = max((1 - errors[base]) / base, 1e-9)
        steps = [0]
        for width in range(base + 1, MAXIMUM_BITS + 1):
            gained = errors[width - 1] - errors[width]
            step = round(STEPS * math.log2(slope / gained)) if gained > 0 else NEVER
            steps.append(max(steps[-1], min(step, NEVER)))
        return cls(base, tuple(steps), keeps_all)

    def widths(self, keys: Integers, threshold: int) -> Integers:
        """Return int64[blocks]: the widths of blocks with ``keys``; 0 below ``threshold``."""
        steps = np.array(self.steps)
        reached = (keys[:, None] - threshold >= steps).sum(axis=1)
        return np.where(reached > 0, self.base - 1 + reached, 0)

    def chances(self, keys: Integers, threshold: int) -> Integers:
        """Return int64[blocks]: chances of 65536, 1 to 65535, that blocks below ``threshold`` are kept; 0 of others."""
        below = np.clip(threshold - keys, 0, 16 * 2 * STEPS)
        chance = np.maximum(np.array(CHANCES)[below % (2 * STEPS)] >> below // (2 * STEPS), 1)
        return np.where((keys != NO_KEY) & (below > 0) & self.keeps_all, chance, 0)


def keys_of(energies: Float64Array) -> Integers:
    """Return int64[blocks]: exponent and first three bits of the mantissa of float64 energies; ``NO_KEY`` of none."""
    bits = energies.astype("<f8").view(np.int64) >> (52 - STEPS_LOG2)
    return np.where(energies >= SMALLEST_ENERGY, bits, NO_KEY)


def block_energies(energies: Float64Array, layout: RecordLayout) -> Float64Array:
    """Return float64[blocks]: the sums, in order, of the energies of each block's buckets, but for broken ones."""
    each = layout.quantiser.block_size // layout.quantiser.bucket_size
    padded = np.zeros(layout.blocks * each)
    padded[: len(energies)] = np.where(is_broken(energies), 0, energies)
    total = np.zeros(layout.blocks)
    for bucket in range(each):
        total += padded[bucket::each]
    return total


def is_broken(energies: Float64Array) -> npt.NDArray[np.bool_]:
    """Return which buckets hold NaN or infinity, or are too long for a float32."""
    return ~(energies <= LARGEST_ENERGY)


def share_out(energies: Float64Array, layout: RecordLayout, ladder: Ladder, draw: int) -> tuple[Integers, Integers]:
    """Return the width of each block and the chance of 65536 with which it was kept, int64[blocks] each.

    1. The threshold is the least at which widths, and blocks kept at random, fit into the record.
    2. Rows that are left go to the first blocks that would be wider at the next lower threshold.
    3. Blocks below the threshold are sampled systematically: chances are added up in order from ``draw`` on, and
       a block is kept where the sum passes a whole number.

    Args:
        energies: float64[buckets] of the buckets; broken ones do not count.
        layout: of the record.
        ladder: how widths grow with energy.
        draw: uniform from 0 to 65535.
    """
    keys = keys_of(block_energies(energies, layout))
    if not (keys != NO_KEY).any():
        return np.zeros(layout.blocks, dtype=np.int64), np.full(layout.blocks, WHOLE)
    kept_rows = word_rows(layout.elements_of_block(0), ladder.base)

    def rows(threshold: int) -> int:
        kept = -(-int(ladder.chances(keys, threshold).sum()) // WHOLE)
        return int(layout.rows_of(ladder.widths(keys, threshold)).sum()) + kept * kept_rows

    # With the lowest threshold all blocks have all bits, with the highest a few are kept at random.
    low, high = int(keys[keys != NO_KEY].min()) - ladder.steps[-1], int(keys.max()) + 1 + 16 * 2 * STEPS
    lowest = low
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if rows(middle) <= layout.word_rows else (middle + 1, high)
    widths, chances = ladder.widths(keys, low), ladder.chances(keys, low)
    if low > lowest:
        wider = ladder.widths(keys, low - 1)
        open_to = (wider > widths) & ((widths > 0) | (not ladder.keeps_all))
        wanted = np.where(open_to, layout.rows_of(wider) - layout.rows_of(widths), 0)
        given = open_to & (np.cumsum(wanted) <= layout.word_rows - rows(low))
        widths = np.where(given, wider, widths)
    passed = (np.cumsum(chances) + draw) // WHOLE
    kept = np.diff(passed, prepend=draw // WHOLE) > 0
    widths = np.where(kept, ladder.base, widths)
    return widths, np.where(kept, chances, WHOLE)
