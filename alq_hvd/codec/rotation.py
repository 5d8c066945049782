"""The rotation that makes the coordinates of any bucket look normal: random signs, then a Walsh-Hadamard transform.

This is the specification; the order of its float32 additions and the places of its multiplications are part of the
wire format. ``docs/reference/wire-format.md`` is its prose and ``docs/decisions/0010-rotation.md`` says why it is so.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from alq_hvd.codec.keys import SignKey, StreamKey, random_bits
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.record import LANES, TILE

FloatArray = npt.NDArray[np.float32]
SQRT_HALF, SQRT_TWO = np.float32(0.5**0.5), np.float32(2**0.5)
BLOCK_STEP = 0x3C6EF372
"""Added to the index of the random words from one block of a bucket to the next, so that no two share their signs."""


def sign_key(key: StreamKey, config: QuantiserConfig) -> SignKey:
    """Return the signs of a record: shared by all ranks for stochastic rounding, own for rounding to the nearest.

    Errors of stochastic rounding are independent whatever the rotation, and shared signs let a receiver add records
    before it rotates back. Errors of rounding to the nearest average out over ranks by their rotations alone.
    """
    return key.own_signs if config.rounding == "nearest" else key.shared_signs


def rotation_words(key: StreamKey, config: QuantiserConfig) -> npt.NDArray[np.uint32]:
    """Return what a record tells of its signs: uint32[4], two words of key, first element, zero; [] if not rotated."""
    words = [*sign_key(key, config), key.first_element, 0] if config.rotate else []
    return np.array(words, dtype=np.uint32)


def rotate_values(values: FloatArray, config: QuantiserConfig, key: SignKey, first_element: int) -> FloatArray:
    """Return float32[elements]: every bucket of ``values`` rotated, the short last one over its own length."""
    return _by_size(values, config, lambda rows, start: rotate(rows, key, first_element + start, config.rounds))


def rotate_values_back(values: FloatArray, config: QuantiserConfig, key: SignKey, first_element: int) -> FloatArray:
    """Return what ``rotate_values`` was given, up to rounding."""
    return _by_size(values, config, lambda rows, start: rotate_back(rows, key, first_element + start, config.rounds))


def rotate(buckets: FloatArray, key: SignKey, first_element: int, rounds: int) -> FloatArray:
    """Return the rotated rows of float32[buckets, size], equal buckets that follow one another.

    A round transforms the first 2^k coordinates of a bucket, the largest power of two that fits; if that is not the
    whole bucket, then also its last 2^k, which overlap the first. Every coordinate is mixed and none is added: a bucket
    of any length is rotated in place.

    1. Transform the first block: see ``_forward``.
    2. Stop if it was the whole bucket. Else multiply what lies behind it by sqrt(1/2) when k is odd, to give it the
       scale of the block.
    3. Transform the last block, and multiply what lies before it by sqrt(1/2) when k is odd.

    The result is an orthogonal transform of the bucket, shrunk: its squared length is ``gain`` times the bucket's.

    Args:
        buckets: full buckets, or one short last one as a single row.
        key: of the signs.
        first_element: index, within the fusion group, of the first coordinate of the first bucket.
        rounds: 1; or 2, after which even a bucket of two non-zero coordinates looks normal.

    References:
        Suresh et al., "Distributed Mean Estimation with Limited Communication", ICML 2017; Vargaftik et al., "EDEN:
        Communication-Efficient and Robust Distributed Mean Estimation", ICML 2022. The overlapping blocks are ours.
    """
    rows = buckets.copy()
    size = rows.shape[1]
    log2, block = _block(size)
    starts = _starts(rows, first_element)
    for turn in range(0, 2 * rounds, 2):
        _forward(rows[:, :block], key, starts, turn)
        if block < size:
            if log2 % 2:
                rows[:, block:] *= SQRT_HALF
            _forward(rows[:, size - block :], key, starts, turn + 1)
            if log2 % 2:
                rows[:, : size - block] *= SQRT_HALF
    return rows


def rotate_back(buckets: FloatArray, key: SignKey, first_element: int, rounds: int) -> FloatArray:
    """Return what ``rotate`` was given, up to rounding: its steps undone in reverse order, with sqrt(2)."""
    rows = buckets.copy()
    size = rows.shape[1]
    log2, block = _block(size)
    starts = _starts(rows, first_element)
    for turn in reversed(range(0, 2 * rounds, 2)):
        if block < size:
            if log2 % 2:
                rows[:, : size - block] *= SQRT_TWO
            _backward(rows[:, size - block :], key, starts, turn + 1)
            if log2 % 2:
                rows[:, block:] *= SQRT_TWO
        _backward(rows[:, :block], key, starts, turn)
    return rows


def gain(size: int, rounds: int) -> float:
    """Return |rotated|^2 / |bucket|^2 of a bucket of ``size`` coordinates, a power of two.

    Blocks of 2^k are scaled by 2^-ceil(k/2), an exact number, where 2^(-k/2) would keep lengths.
    """
    log2, block = _block(size)
    return 1.0 if log2 % 2 == 0 else (0.5 if block == size else 0.25) ** rounds


def block_scale(size: int) -> float:
    """Return the exact factor of a block of 2^k coordinates before its additions: 2^-ceil(k/2)."""
    log2, _ = _block(size)
    return float(2.0 ** -((log2 + 1) // 2))


def signs(key: SignKey, starts: npt.NDArray[np.uint32], block: int, turn: int) -> npt.NDArray[np.bool_]:
    """Return bool[buckets, block]: which coordinates of a block change their sign.

    Coordinate i of the block is in tile i // 1024, row i // 32 % 32, lane i % 32. Its sign is bit ``row`` of the random
    word of index e + 32 tile + lane + turn 0x3c6ef372, where e is the first element of the bucket: 32 signs a word.
    ``turn`` counts the blocks of a bucket: 0 and 1 for the first and the last of the first round, then 2 and 3.
    """
    tiles, lanes, rows = -(-block // TILE), min(block, LANES), min(-(-block // LANES), TILE // LANES)
    places = LANES * np.arange(tiles, dtype=np.uint64)[:, None] + np.arange(lanes, dtype=np.uint64) + turn * BLOCK_STEP
    words = random_bits(key, np.add.outer(starts, places.astype(np.uint32)).astype(np.uint32))
    bits = words[:, :, None, :] >> np.arange(rows, dtype=np.uint32)[:, None] & np.uint32(1)
    return bits.astype(bool).reshape(len(starts), block)


def butterflies(rows: FloatArray) -> None:
    """Transform each row of float32[n, 2^k] in place by the unscaled Walsh-Hadamard matrix.

    Stages h = 1, 2, 4, ... 2^(k-1): the pair (a, b) of coordinates i and i + h, bit h of i clear, becomes
    (a + b, a - b).
    """
    count, size = rows.shape
    half = 1
    with np.errstate(invalid="ignore", over="ignore"):
        while half < size:
            pairs = rows.reshape(count, -1, 2, half)  # a view of contiguous rows
            total = pairs[:, :, 0] + pairs[:, :, 1]
            pairs[:, :, 1] = pairs[:, :, 0] - pairs[:, :, 1]
            pairs[:, :, 0] = total
            half *= 2


def _by_size(
    values: FloatArray, config: QuantiserConfig, change: Callable[[FloatArray, int], FloatArray]
) -> FloatArray:
    """Return float32[elements]: ``change`` of the full buckets and their start, then of the short last one and its."""
    whole = len(values) - len(values) % config.bucket_size
    changed = np.empty_like(values)
    if whole:
        changed[:whole] = change(values[:whole].reshape(-1, config.bucket_size), 0).reshape(-1)
    if whole < len(values):
        changed[whole:] = change(values[None, whole:], whole)[0]
    return changed


def _forward(block: FloatArray, key: SignKey, starts: npt.NDArray[np.uint32], turn: int) -> None:
    """Multiply by sign and 2^-ceil(k/2), then transform. The exact factor comes first: no later sum overflows."""
    size = block.shape[1]
    scaled = block * np.float32(2.0 ** -(size.bit_length() // 2))
    flipped = np.where(signs(key, starts, size, turn), -scaled, scaled)
    butterflies(flipped)
    block[:] = flipped


def _backward(block: FloatArray, key: SignKey, starts: npt.NDArray[np.uint32], turn: int) -> None:
    """Multiply by 2^-floor(k/2), transform, and take the signs away."""
    size = block.shape[1]
    scaled = block * np.float32(2.0 ** -((size.bit_length() - 1) // 2))
    butterflies(scaled)
    block[:] = np.where(signs(key, starts, size, turn), -scaled, scaled)


def _block(size: int) -> tuple[int, int]:
    """Return k and 2^k, the largest power of two up to ``size``."""
    log2 = size.bit_length() - 1
    return log2, 1 << log2


def _starts(rows: FloatArray, first_element: int) -> npt.NDArray[np.uint32]:
    count, size = rows.shape
    starts: npt.NDArray[np.uint32] = (first_element + size * np.arange(count, dtype=np.uint64)).astype(np.uint32)
    return starts
