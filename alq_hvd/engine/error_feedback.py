"""What a rank owes, from step to step: which steps count, at which scale, and when owing would never end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from alq_hvd.codec.base import Codec, Values
from alq_hvd.engine.adaptation.shot import AdaptiveShot
from alq_hvd.errors import ConfigurationError
from alq_hvd.exchange.residuals import Owner, Residuals

_logger = logging.getLogger(__name__)
LossScale = Callable[[], float]
"""Return by what the open step's gradients are multiplied."""


class ErrorFeedback:
    """Keep the residuals of a rank right, where there are any.

    Args:
        on: whether there are.
        loss_scale: ``None`` where it is unknown.

    Attributes:
        residuals: ``None`` without error feedback.
    """

    def __init__(self, on: bool, loss_scale: LossScale | None) -> None:
        self._loss_scale = loss_scale
        self._guarded = loss_scale is not None
        self.residuals = Residuals(guarded=self._guarded) if on else None

    def begin_step(self) -> None:
        """Bring residuals to the scale of the step that begins; take back what a skipped one has changed."""
        if self.residuals is not None:
            self.residuals.begin_step(None if self._loss_scale is None else float(self._loss_scale()))

    def scale_changed(self, old: float, new: float) -> None:
        """Bring residuals of gradients that were multiplied by ``old`` to those multiplied by ``new``.

        Raises:
            ConfigurationError: the scales are not positive numbers, or a ``grad_scaler`` says them already.
        """
        if self._loss_scale is not None:
            raise ConfigurationError("scale_changed: expected no grad_scaler beside it, which is asked for its scale")
        if not (old > 0 and new > 0):
            raise ConfigurationError(f"scale_changed: expected two positive scales, got {old!r} and {new!r}")
        if self.residuals is not None:
            self.residuals.rescale(new / old)

    def end_step(
        self,
        groups: Iterable[tuple[Codec, Values]],
        stride: int,
        changed: Iterable[AdaptiveShot],
        rank: int,
        step: int,
    ) -> None:
        """Close a step: one that is not finite on every rank alike counts for nothing, as a gradient scaler skips it.

        Args:
            groups: the step's sums, and where they lie.
            stride: coordinates of a bucket: where one of them is not finite, the first of its bucket is not.
            changed: shots whose records began or ceased to lose less than they carry.
            rank: for what is logged.
            step: likewise.
        """
        if self.residuals is None:
            return
        finite = all(codec.arrays.is_finite(values, stride) for codec, values in groups)
        if not finite and not self.residuals.take_back():
            _logger.warning(
                "rank %d, step %d: gradients are not finite, so the step applies nothing, and what records had lost "
                "before it is lost for good. From now on residuals are kept twice, for steps like this; pass "
                "grad_scaler= to do so from the start",
                rank,
                step,
            )
        for shot in changed:
            self._pause_or_resume(shot, rank, step)

    def _pause_or_resume(self, shot: AdaptiveShot, rank: int, step: int) -> None:
        """Drop residuals that would grow from step to step, with a warning."""
        assert self.residuals is not None
        where = (rank, step, shot.index + 1, shot.relative_variance)
        if shot.contracts:
            _logger.info("rank %d, step %d: error feedback goes on: records of shot %d lose %.3g of what they carry",
                         *where)  # fmt: skip
            return
        self.residuals.drop(shot.index)
        _logger.warning(
            "rank %d, step %d: error feedback pauses: expected records that lose less than they carry, those of shot "
            "%d lose %.3g times as much (relative variance), and residuals would grow from step to step. Use more "
            "bits, rotate=True, or a smaller bucket_size",
            *where,
        )

    def state_dict(self) -> dict[str, Any] | None:
        """Return the residuals as plain values and tensors of the host."""
        return None if self.residuals is None else self.residuals.state_dict()

    def load_state_dict(self, state: dict[str, Any], shots: Iterable[AdaptiveShot], owner: Owner | None) -> None:
        """Go on with residuals of ``state``, but for those of shots that pause, and where they belong to ``owner``."""
        if self.residuals is None:
            return
        self.residuals = Residuals.from_state_dict(state)
        self.residuals.guarded |= self._guarded
        for shot in shots:
            if not shot.contracts:
                self.residuals.drop(shot.index)
        if owner is not None:
            self.residuals.belong_to(owner)
