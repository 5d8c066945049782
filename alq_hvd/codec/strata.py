"""Uniform numbers that ranks share out among them: rounding that is unbiased on each rank and exacter in the mean.

At every element [0, 1) is cut into equal strata, a random permutation deals them out to the ranks, and each rank draws
inside its own. Alone, every number is uniform still; together they are spread evenly, so that errors of ranks cancel.
This is the specification; ``docs/reference/wire-format.md`` is its prose and the reasons are in
``docs/decisions/0015-correlated-rounding.md``.

References:
    Suresh et al., "Correlated Quantization for Distributed Mean Estimation and Optimization", ICML 2022. The affine
    permutations are ours.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alq_hvd.codec.keys import Strata, StreamKey, random_bits
from alq_hvd.quantiser.config import QuantiserConfig

Words = npt.NDArray[np.uint32]

MOST_STRATA = 2**16
DRAW_BITS = 24
"""A float32 holds integers of so many bits."""
PERIOD = 1024
"""Elements after which the permutations repeat, shifted again."""
POLYNOMIALS = (0x2, 0x3, 0x7, 0xB, 0x13, 0x25, 0x43, 0x83, 0x11B, 0x211, 0x409, 0x805, 0x1053, 0x201B, 0x402B, 0x8003,
               0x1002B)  # fmt: skip
"""By k, an irreducible polynomial of degree k over two elements: 2^k strata are counted in the field that it makes."""


def strata_for(ranks: int) -> int:
    """Return the number of strata for ``ranks``: the smallest prime or power of two from there on.

    In a field of so many elements the maps s -> a s + b, a not 0, take any two places to all pairs of two strata
    equally often, and the variance of a mean depends on pairs alone. More than 2^16 ranks stay independent.
    """
    if ranks > MOST_STRATA:
        return 1
    count = max(ranks, 1)
    while count & (count - 1) and any(count % divisor == 0 for divisor in range(2, int(count**0.5) + 1)):
        count += 1
    return count


def own_bits(count: int) -> int:
    """Return how many random bits of its own a rank draws inside one of ``count`` strata."""
    return DRAW_BITS - (count - 1).bit_length()


def draws_of(count: int) -> int:
    """Return how many values, equally likely, a draw has: at most 2^24."""
    return count << own_bits(count)


def polynomial_of(count: int) -> int:
    """Return the polynomial of the field of ``count`` elements; 0 for a prime, whose field counts modulo ``count``."""
    return POLYNOMIALS[count.bit_length() - 1] if count & (count - 1) == 0 else 0


def draws(key: StreamKey, elements: int) -> Words:
    """Return uint32[elements]: the random integer of each element, uniform from 0 to ``draws_of(count)`` - 1.

    The upper part is the stratum, the lower ``own_bits(count)`` bits are this rank's own.
    """
    index = np.arange(elements, dtype=np.uint32) + np.uint32(key.first_element)
    bits = own_bits(key.strata.parts)
    own = random_bits(key, index) >> np.uint32(32 - bits)
    if key.strata.parts == 1:
        return own
    return (strata(key.strata, index) << np.uint32(bits)) + own


def draws_words(key: StreamKey, config: QuantiserConfig) -> Words:
    """Return what a record tells of its draws: uint32[4], two words of key, first element, zero; [] if not dithered."""
    return np.array([key.first, key.second, key.first_element, 0] if config.dither else [], dtype=np.uint32)


def dither(words: Words, elements: int, width: np.float32) -> npt.NDArray[np.float32]:
    """Return float32[elements]: ``width`` times u - 1/2, u the draws that ``words`` name, of mean exactly zero."""
    first, second, start, _ = (int(word) for word in words)
    drawn = draws(StreamKey(first, second, start), elements).astype(np.float32)
    return (drawn - np.float32(2 ** (DRAW_BITS - 1) - 0.5)) * (width * np.float32(2.0**-DRAW_BITS))


def strata(key: Strata, index: Words) -> Words:
    """Return uint32[n]: the stratum of this rank at each element of ``index``.

    Of the element e = 1024 t + c, the random words x of index c and y of index 1024 + t give a = 1 + (x >> 16)(q - 1)
    >> 16, b = (x & 0xffff) q >> 16 and b' = y q >> 32; the stratum is a place + b + b', in the field of q elements.

    One random map serves each c and one random shift each t: the maps at any two elements are independent as if all
    were drawn again, and so is every covariance of errors.
    """
    count, polynomial = key.parts, polynomial_of(key.parts)
    x = random_bits(key, np.arange(PERIOD, dtype=np.uint32))
    factors = np.uint32(1) + ((x >> np.uint32(16)) * np.uint32(count - 1) >> np.uint32(16))
    terms = (x & np.uint32(0xFFFF)) * np.uint32(count) >> np.uint32(16)
    base = _plus(_times(factors, key.place, count, polynomial), terms, count, polynomial)
    y = random_bits(key, (index >> np.uint32(10)) + np.uint32(PERIOD))
    shifts = (y.astype(np.uint64) * np.uint64(count) >> np.uint64(32)).astype(np.uint32)
    return _plus(base[index % PERIOD], shifts, count, polynomial)


def _plus(one: Words, other: Words, count: int, polynomial: int) -> Words:
    """Return the sum in the field."""
    return one ^ other if polynomial else (one + other) % np.uint32(count)


def _times(factors: Words, place: int, count: int, polynomial: int) -> Words:
    """Return ``factors`` times ``place`` in the field: doubled and added, bit by bit."""
    product, power = np.zeros_like(factors), factors
    while place:
        if place & 1:
            product = _plus(product, power, count, polynomial)
        if polynomial:
            power = power << np.uint32(1)
            power = power ^ np.where(power & np.uint32(count), np.uint32(polynomial), np.uint32(0))
        else:
            power = _plus(power, power, count, polynomial)
        place >>= 1
    return product
