"""Sums and matrix products in a narrow accumulator, by torch: the bits of ``emulated``, on the host and on devices.

On the host matrix products are compiled code (``narrow.cpp``) where the extension was built; elsewhere, loops over
the terms.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from alq_hvd import backends
from alq_hvd.accumulation.adder import Adder
from alq_hvd.accumulation.emulated import require_product
from alq_hvd.accumulation.rounding import FULL, Mode, require_float32, require_rounding
from alq_hvd.errors import ConfigurationError

NATIVE = "alq_hvd.accumulation._native"
Tensor = Any


def rounded(values: Tensor, mantissa: int, mode: Mode = "nearest") -> Tensor:
    """Return ``values`` with ``mantissa`` fractional bits, in new memory; see ``rounding.rounded``."""
    torch = backends.torch()
    require_rounding(mantissa, mode)
    require_float32("values", values.dtype)
    dropped = FULL - mantissa
    words = values.contiguous().view(torch.int32)
    if mode == "nearest" and dropped:
        kept = words + ((words >> dropped) & 1).add_(2 ** (dropped - 1) - 1)
    else:
        kept = words.clone()
    kept &= -(2**dropped)
    return torch.where(values.isnan(), values, kept.view(torch.float32))


def add_up(terms: Tensor, adder: Adder) -> Tensor:
    """Return the sum of ``terms``, float32[n, ...], over their first axis; see ``emulated.add_up``."""
    require_float32("terms", terms.dtype)
    if not terms.dim():
        raise ConfigurationError("terms: expected a tensor with an axis to add up, got a single number")
    return _add_up(terms, terms.new_zeros(terms.shape[1:]), len(terms), adder)


def matmul(left: Tensor, right: Tensor, adder: Adder) -> Tensor:
    """Return ``left @ right``, float32[m, n]; see ``emulated.matmul``.

    An adder that is float32 leaves it to torch, whose order of terms is its own.
    """
    require_product(left, right)
    if adder.is_float32 and adder.chunk is None:
        return left @ right
    if left.device.type == "cpu" and backends.available(NATIVE):
        arrays = (part.detach().contiguous().numpy() for part in (left, right))
        limit = adder.chunk or max(1, len(right))
        product = backends.require(NATIVE).matmul(
            *arrays, mantissa=adder.mantissa, truncate=adder.mode == "truncate", chunk=limit, term=adder.term or 0
        )
        return backends.torch().from_numpy(product)
    return loops(left, right, adder)


def loops(left: Tensor, right: Tensor, adder: Adder) -> Tensor:
    """Return what ``matmul`` returns, without compiled code."""
    products = (left[:, k, None] * right[k] for k in range(len(right)))
    return _add_up(products, left.new_zeros(len(left), right.shape[1]), len(right), adder)


def _add_up(terms: Iterable[Tensor], zeros: Tensor, count: int, adder: Adder) -> Tensor:
    chunk = adder.chunk or max(1, count)
    inner, outer = zeros, zeros
    for index, term in enumerate(terms):
        if adder.term is not None:
            term = rounded(term, adder.term)
        inner = rounded(inner + term, adder.mantissa, adder.mode)
        if (index + 1) % chunk == 0 or index + 1 == count:
            outer, inner = rounded(outer + inner, adder.mantissa, adder.mode), zeros
    return outer
