"""Sums and matrix products in a narrow accumulator, by NumPy: plain loops over the terms, to be checked against."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from alq_hvd.accumulation.adder import Adder
from alq_hvd.accumulation.rounding import FloatArray, require_float32, rounded
from alq_hvd.errors import ConfigurationError


def add_up(terms: FloatArray, adder: Adder) -> FloatArray:
    """Return the sum of ``terms`` over their first axis: float32[...], zeros where there is no term.

    Args:
        terms: float32[n, ...]. One that is not finite makes its sum so.
        adder: the accumulator.

    Raises:
        UnsupportedTensor: ``terms`` is not float32.
        ConfigurationError: ``terms`` has no axis.
    """
    require_float32("terms", terms.dtype)
    if not terms.ndim:
        raise ConfigurationError("terms: expected an array with an axis to add up, got a single number")
    return _add_up(terms, len(terms), terms.shape[1:], adder)


def matmul(left: FloatArray, right: FloatArray, adder: Adder) -> FloatArray:
    """Return ``left @ right``: float32[m, n], each element a sum of k products in the order of k.

    Args:
        left: float32[m, k].
        right: float32[k, n].
        adder: the accumulator.

    Raises:
        UnsupportedTensor: an operand is not float32.
        ConfigurationError: shapes that do not multiply.
    """
    require_product(left, right)
    products = (np.multiply.outer(left[:, k], right[k]) for k in range(len(right)))
    return _add_up(products, len(right), (len(left), right.shape[1]), adder)


def require_product(left: FloatArray, right: FloatArray) -> None:
    """Raise unless ``left @ right`` is a product of two float32 matrices, of NumPy or torch."""
    require_float32("left", left.dtype)
    require_float32("right", right.dtype)
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
        shapes = f"{tuple(left.shape)} and {tuple(right.shape)}"
        raise ConfigurationError(f"expected matrices (m, k) and (k, n), got {shapes}: reshape them first")


def _add_up(terms: Iterable[FloatArray], count: int, shape: tuple[int, ...], adder: Adder) -> FloatArray:
    chunk = adder.chunk or max(1, count)
    inner, outer = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for index, term in enumerate(terms):
            if adder.term is not None:
                term = rounded(term, adder.term)
            inner = rounded(inner + term, adder.mantissa, adder.mode)
            if (index + 1) % chunk == 0 or index + 1 == count:
                outer, inner = rounded(outer + inner, adder.mantissa, adder.mode), np.zeros(shape, np.float32)
    return outer
