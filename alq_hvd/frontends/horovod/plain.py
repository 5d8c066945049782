"""What Horovod gets of a gradient that is left to it: Horovod adds up in the type in which tensors come."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from alq_hvd.accumulation.plan import plan_accumulator
from alq_hvd.accumulation.types import AUTO, TYPES

_logger = logging.getLogger(__name__)


def for_sum(tensor: Any, accumulator: str, ranks: int, chief: bool) -> Any:
    """Return ``tensor``, or a copy in the type in which Horovod shall add it up.

    Horovod has no bfloat16: that travels as float32, which holds it exactly. Other types than the three are left alone.

    Args:
        tensor: any.
        accumulator: ``"auto"`` keeps float32, and float16 where the plan says that so many ranks may add in it.
        ranks: terms of the sum.
        chief: this rank speaks for all.
    """
    own = next((name for name, kind in TYPES.items() if str(tensor.dtype) == f"torch.{kind.torch_name}"), None)
    if own is None or tensor.is_sparse:
        return tensor
    dtype = TYPES[_planned(own, accumulator, ranks, chief)].torch
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


@lru_cache(maxsize=64)
def _planned(own: str, accumulator: str, ranks: int, chief: bool) -> str:
    if accumulator == "bf16" or (accumulator == AUTO and own != "fp16"):
        accumulator = "fp32"
    plan = plan_accumulator(ranks, accumulator=accumulator, allowed=("fp16",))
    if chief and plan.problem:
        _logger.warning("Horovod adds up gradients in %s: %s", plan.dtype, plan.problem)
    return plan.dtype
