"""Sums in few bits: how long they may get, which float type they need, and what a narrow adder does to training."""

from alq_hvd.accumulation.integers import integer_sum_bits
from alq_hvd.accumulation.plan import AccumulatorPlan, plan_accumulator, plan_inside_node
from alq_hvd.accumulation.retention import log_variance_lost, min_mantissa, vrr
from alq_hvd.accumulation.rounding import rounding_nmse

__all__ = [
    "AccumulatorPlan",
    "integer_sum_bits",
    "log_variance_lost",
    "min_mantissa",
    "plan_accumulator",
    "plan_inside_node",
    "rounding_nmse",
    "vrr",
]
