"""How many bits codes take: fixed width, entropy, and the bound for a prefix code on magnitudes and signs."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
NORM_BYTES = 4


def symbol_probabilities(levels: npt.ArrayLike, mass: npt.ArrayLike, first_moment: npt.ArrayLike) -> Float64Array:
    """Return float64[count]: how often each level is chosen.

    A coordinate r in [c, e] chooses e with probability (r - c)/(e - c), else c.

    Args:
        levels: float64[count], increasing.
        mass: float64[count - 1], probability of each interval between neighbouring levels.
        first_moment: float64[count - 1], int r dF over each of them.

    References:
        Faghri et al., NeurIPS 2020, the symbol probabilities of the expected code length.
    """
    table = np.asarray(levels, dtype=np.float64)
    share, moment = np.asarray(mass, dtype=np.float64), np.asarray(first_moment, dtype=np.float64)
    up = (moment - table[:-1] * share) / np.diff(table)
    chosen = np.zeros(len(table))
    chosen[1:] += up
    chosen[:-1] += share - up
    return np.maximum(chosen, 0)


def entropy_bits(probabilities: npt.ArrayLike) -> float:
    """Return -sum p log2 p of probabilities that sum to 1: bits a symbol under an ideal coder."""
    p = np.asarray(probabilities, dtype=np.float64)
    p = p[p > 0]
    return max(0.0, float(-(p * np.log2(p)).sum()))


def bytes_fixed(elements: int, bits: int, bucket_size: int) -> int:
    """Return ceil(n b / 8) + 4 ceil(n / d): packed codes of fixed width and one float32 norm a bucket."""
    return -(-elements * bits // 8) + NORM_BYTES * -(-elements // bucket_size)


def bytes_ideal(elements: int, entropy: float, bucket_size: int) -> int:
    """Return ceil(n H / 8) + 4 ceil(n / d): the same with an ideal entropy coder for the codes."""
    return math.ceil(elements * entropy / 8) + NORM_BYTES * -(-elements // bucket_size)


def nonzeros_bound(smallest: float, dimension: int, exponent: float = 2.0) -> float:
    """Return min(l^-q + d^(1 - 1/q) / l, d): expected nonzero codes of a bucket with a zero level.

    Args:
        smallest: l, the smallest nonzero magnitude.
        dimension: d, the bucket size.
        exponent: q of the norm that scales the bucket, ``math.inf`` for the largest magnitude.

    References:
        Faghri et al., NeurIPS 2020, the expected number of nonzeros in the code-length bound; for q = 2 Alistarh et
        al., NeurIPS 2017, Lemma 3.1 (sparsity).
    """
    large = math.pow(smallest, -exponent) if math.isfinite(exponent) else dimension
    return min(large + math.pow(dimension, 1 - 1 / exponent) / smallest, dimension)


def code_length_bound(nonzeros: float, dimension: int, entropy: float, norm_bits: int = 32) -> float:
    """Return C + E nnz + d (H + 1): bits of a bucket under a prefix code of the magnitudes, and signs of nonzeros.

    Args:
        nonzeros: expected nonzero codes, or ``nonzeros_bound``.
        dimension: d, the bucket size.
        entropy: H of the magnitude's index, in bits; at most log2 of how many magnitudes there are.
        norm_bits: C.

    References:
        Faghri et al., NeurIPS 2020, the expected code length.
    """
    return norm_bits + nonzeros + dimension * (entropy + 1)
