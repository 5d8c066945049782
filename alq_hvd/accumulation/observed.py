"""What the sums of a model look like, and the accumulators they need by the theory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from alq_hvd.accumulation.adder import Adder
from alq_hvd.accumulation.layers import Adders, emulate_accumulators
from alq_hvd.accumulation.retention import TERM_MANTISSA, min_mantissa
from alq_hvd.accumulation.rounding import FULL

Tensor = Any


@dataclass(frozen=True, slots=True)
class Sums:
    """Describe the sums of one matrix product.

    Attributes:
        length: terms of each.
        nzr: share of the terms that are not zero.
        growth: E[sum^2] / (n E[term^2]): 1 for independent, centred terms, as the theory assumes; n for equal ones.
    """

    length: int
    nzr: float
    growth: float


Observed = Mapping[str, Mapping[str, Sums]]
"""Layer -> pass (``"forward"``, ``"backward"``, ``"gradient"``) -> its sums."""


def observe(model: Any, loss: Callable[[], Tensor], operands: int | None = 2, skip: Collection[str] = ()) -> Observed:
    """Return what is added up in one forward and backward pass; the model is left emulating float32 accumulators.

    Args:
        model: see ``emulate_accumulators``.
        loss: runs the model on a batch. Gradients are left in the model.
        operands: mantissa bits of the factors.
        skip: layers to leave alone.
    """
    layers = emulate_accumulators(model, Adders(operands=operands), skip)
    found: dict[str, dict[str, Sums]] = {name: {} for name in layers}

    def note(name: str, which: str, left: Tensor, right: Tensor) -> None:
        found[name][which] = sums_of(left, right)

    for name, layer in layers.items():
        layer.watch = partial(note, name)
    loss().backward()
    for layer in layers.values():
        layer.watch = None
    return found


def sums_of(left: Tensor, right: Tensor) -> Sums:
    """Describe the sums of ``left @ right``, float32[m, k] and float32[k, n]."""
    nonzero = ((left != 0).double().mean(0) * (right != 0).double().mean(1)).mean()
    energy = float((left.double().square().mean(0) * right.double().square().mean(1)).sum())
    grown = float((left @ right).double().square().mean())
    return Sums(len(right), float(nonzero), grown / energy if energy else 1.0)


def planned_adders(
    observed: Observed,
    *,
    operands: int | None = 2,
    chunk: int | None = None,
    sparse: bool = True,
    more: int = 0,
    mode: Any = "nearest",
) -> dict[str, Adders]:
    """Return for each layer the narrowest accumulators that the theory accepts.

    Args:
        observed: lengths and shares of zeros.
        operands: mantissa bits of the factors; their products have twice as many and one.
        chunk: terms of an inner sum.
        sparse: count on the observed zeros; ``False`` plans as if there were none.
        more: bits to add to each, or to take away; no adder gets less than 1 bit or more than 23.
        mode: of rounding. The theory holds for ``"nearest"``.
    """
    term = TERM_MANTISSA if operands is None else 2 * operands + 1

    def adder(sums: Sums) -> Adder:
        bits = min_mantissa(term, sums.length, chunk=chunk, nzr=sums.nzr if sparse else 1.0) + more
        return Adder(min(max(bits, 1), FULL), mode, chunk)

    return {
        name: Adders(**{which: adder(sums) for which, sums in passes.items()}, operands=operands)
        for name, passes in observed.items()
    }
