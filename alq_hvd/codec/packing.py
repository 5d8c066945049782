"""Codes of a few bits in words of 32, lane by lane: the specification; docs/reference/wire-format.md is its prose."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alq_hvd.quantiser.record import LANES, TILE, RecordLayout

Codes = npt.NDArray[np.uint32]


def pack(codes: Codes, layout: RecordLayout) -> Codes:
    """Return uint32[word_rows, 32]: the packed codes, tiles of 32 rows by 32 lanes, low bits first."""
    bits = layout.quantiser.bits
    words = np.zeros((layout.word_rows, LANES), dtype=np.uint32)
    rows = _rows(codes)
    for row, lane_codes in enumerate(rows):
        tile, row_of_tile = divmod(row, TILE // LANES)
        word, shift = divmod(row_of_tile * bits, 32)
        word += tile * bits
        words[word] |= lane_codes << np.uint32(shift)
        if shift + bits > 32:
            words[word + 1] |= lane_codes >> np.uint32(32 - shift)
    return words


def unpack(words: Codes, layout: RecordLayout) -> Codes:
    """Return uint32[elements]: the codes that ``pack`` wrote."""
    bits = layout.quantiser.bits
    rows = np.zeros((-(-layout.elements // LANES), LANES), dtype=np.uint32)
    for row in range(len(rows)):
        tile, row_of_tile = divmod(row, TILE // LANES)
        word, shift = divmod(row_of_tile * bits, 32)
        word += tile * bits
        rows[row] = words[word] >> np.uint32(shift)
        if shift + bits > 32:
            rows[row] |= words[word + 1] << np.uint32(32 - shift)
    return (rows & np.uint32(2**bits - 1)).reshape(-1)[: layout.elements]


def _rows(codes: Codes) -> Codes:
    rows = np.zeros((-(-len(codes) // LANES), LANES), dtype=np.uint32)
    rows.reshape(-1)[: len(codes)] = codes
    return rows
