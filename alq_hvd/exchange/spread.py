"""Groups whose blocks have widths of their own, in an order in which every part of them is like the whole.

A record shares out the bits of its own blocks. Exchanges that cut a group into records would else give as many bits to
a part of only zeros, the rows of an embedding that no rank has seen, as to one with all of the gradient.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from alq_hvd import backends
from alq_hvd.codec.arrays import Arrays
from alq_hvd.codec.base import Values
from alq_hvd.exchange.base import Exchange, ExchangeFunction, Task

_GOLDEN = (math.sqrt(5) - 1) / 2


def spread(function: ExchangeFunction) -> ExchangeFunction:
    """Return ``function`` of values in that order, where widths differ; elsewhere it does what it did."""

    def exchange(values: Values, task: Task) -> Exchange:
        unit = task.shots[0].config.block_size
        blocks = len(values) // unit
        if task.shots[0].config.budget is None or blocks < 2:
            return (yield from function(values, task))
        arrays, order = task.codec.arrays, _order(blocks)
        with task.ledger.timed("encode"):
            spread_out = _reordered(values, order, unit, arrays)
        decode = yield from function(spread_out, task)

        def decoded(scale: float, out: Values) -> None:
            decode(scale, spread_out)
            flat = arrays.zeros(len(spread_out)) if not isinstance(out, np.ndarray) else out
            _rows(flat, unit)[_index(order, flat)] = _rows(spread_out, unit)
            flat[blocks * unit :] = spread_out[blocks * unit :]
            if flat is not out:
                arrays.scaled(arrays.as_bytes(flat), 1.0, out)

        return decoded

    return exchange


def _order(blocks: int) -> npt.NDArray[np.int64]:
    """Return int64[blocks], a permutation: steps of the golden section, which leave no large gap in any run of them."""
    step = max(round(blocks * _GOLDEN), 1)
    while math.gcd(step, blocks) > 1:
        step += 1
    return np.arange(blocks, dtype=np.int64) * step % blocks


def _reordered(values: Values, order: npt.NDArray[np.int64], unit: int, arrays: Arrays) -> Any:
    """Return a copy of ``values``, its blocks in that order: float32[n] of NumPy, or one tensor."""
    if isinstance(values, np.ndarray):
        copy = np.empty_like(values)
        np.take(_rows(values, unit), order, axis=0, out=_rows(copy, unit), mode="clip")  # else it copies once more
        copy[len(order) * unit :] = values[len(order) * unit :]
        return copy
    flat = arrays.zeros(len(values))
    arrays.scaled(arrays.as_bytes(values), 1.0, flat)
    _rows(flat, unit)[:] = _rows(flat, unit)[_index(order, flat)]
    return flat


def _rows(flat: Values, unit: int) -> Any:
    """Return the whole blocks of ``flat``, float32[blocks, unit]; a short last one stays where it is."""
    return flat[: len(flat) // unit * unit].reshape(-1, unit)


def _index(order: npt.NDArray[np.int64], flat: Any) -> Any:
    if isinstance(flat, np.ndarray):
        return order
    return backends.torch().from_numpy(order).to(flat.device)
