"""Gradients that are left to Horovod: in which type it gets them, and what they cost."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from alq_hvd.accumulation.plan import plan_accumulator
from alq_hvd.accumulation.types import AUTO, TYPES
from alq_hvd.engine.session import Session
from alq_hvd.exchange.ledger import ring_bytes

_logger = logging.getLogger(__name__)


class LeftToHorovod:
    """Hand Horovod the gradients that are not compressed, each in the type in which it shall be added up, and count.

    Attributes:
        shapes: of gradients that were recognised as none of those to compress, in the open step.
        elements_last_step: that were left to Horovod.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.elements_last_step = 0
        self.forget_step()

    def forget_step(self) -> None:
        """Forget what was counted in a step that will not end."""
        self._elements = 0
        self.shapes: list[tuple[int, ...]] = []

    def take(self, tensor: Any) -> Any:
        """Return what Horovod shall reduce in place of ``tensor``."""
        session = self._session
        wide = for_sum(tensor, session.options.accumulator, session.size, session.rank == 0)
        elements = int(tensor.numel())
        self._elements += elements
        session.ledger.sent(ring_bytes(session.size, elements * wide.element_size()))
        return wide

    def count_sparse(self, gathered: Any) -> None:
        """Count this rank's share, on average, of a sparse gradient that Horovod has gathered itself."""
        session = self._session
        if str(gathered.layout) == "torch.sparse_coo" and session.size > 1:
            indices, values = gathered._indices(), gathered._values()
            length = indices.numel() * indices.element_size() + values.numel() * values.element_size()
            session.ledger.sent(length * (session.size - 1) // session.size)

    def end_step(self) -> None:
        """Close the step."""
        self.elements_last_step, self._elements = self._elements, 0


def for_sum(tensor: Any, accumulator: str, ranks: int, chief: bool) -> Any:
    """Return ``tensor``, or a copy in the type in which Horovod shall add it up.

    Horovod has no bfloat16: that travels as float32, which holds it exactly. Other types than the three are left alone.

    Args:
        tensor: any.
        accumulator: ``"auto"`` keeps float32, and float16 where the plan says that so many ranks may add in it.
        ranks: terms of the sum.
        chief: this rank speaks for all.
    """
    dtype = _type_of_sum(tensor.dtype, accumulator, ranks, chief)
    return tensor if dtype is tensor.dtype or tensor.is_sparse else tensor.to(dtype)


@lru_cache(maxsize=256)  # asked for with every gradient
def _type_of_sum(dtype: Any, accumulator: str, ranks: int, chief: bool) -> Any:
    own = next((name for name, kind in TYPES.items() if str(dtype) == f"torch.{kind.torch_name}"), None)
    return dtype if own is None else TYPES[_planned(own, accumulator, ranks, chief)].torch


@lru_cache(maxsize=64)
def _planned(own: str, accumulator: str, ranks: int, chief: bool) -> str:
    if accumulator == "bf16" or (accumulator == AUTO and own != "fp16"):
        accumulator = "fp32"
    plan = plan_accumulator(ranks, accumulator=accumulator, allowed=("fp16",))
    if chief and plan.problem:
        _logger.warning("Horovod adds up gradients in %s: %s", plan.dtype, plan.problem)
    return plan.dtype
