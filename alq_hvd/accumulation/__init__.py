"""Sums in few bits: how long they may get, which float type they need, and what a narrow adder does to training.

The theory and the plan need NumPy and SciPy; the names in ``_LAZY`` bring torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from alq_hvd.accumulation.adder import Adder
from alq_hvd.accumulation.integers import integer_sum_bits
from alq_hvd.accumulation.plan import AccumulatorPlan, plan_accumulator, plan_inside_node
from alq_hvd.accumulation.retention import log_variance_lost, min_mantissa, vrr
from alq_hvd.accumulation.rounding import rounding_nmse

if TYPE_CHECKING:
    from alq_hvd.accumulation.buffers import GradientAccumulator
    from alq_hvd.accumulation.layers import Adders, emulate_accumulators
    from alq_hvd.accumulation.observed import observe, planned_adders

__all__ = [
    "AccumulatorPlan",
    "Adder",
    "Adders",
    "GradientAccumulator",
    "emulate_accumulators",
    "integer_sum_bits",
    "log_variance_lost",
    "min_mantissa",
    "observe",
    "plan_accumulator",
    "plan_inside_node",
    "planned_adders",
    "rounding_nmse",
    "vrr",
]

_LAZY = {
    "Adders": "layers",
    "GradientAccumulator": "buffers",
    "emulate_accumulators": "layers",
    "observe": "observed",
    "planned_adders": "observed",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
