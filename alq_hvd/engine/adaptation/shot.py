"""One quantised hop's level table as it changes: what was gathered for the next one, and the history so far."""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass, fields
from typing import Any

from alq_hvd.codec.base import Codec, Values
from alq_hvd.codec.keys import StreamKey
from alq_hvd.communicator.base import Communicator
from alq_hvd.engine.adaptation.agreement import LEADER, agree
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels_by_width import AnyLevels
from alq_hvd.quantiser.policies.base import Policy
from alq_hvd.quantiser.record import RecordLayout, Stamp
from alq_hvd.quantiser.statistics import GradientStatistics

REMEMBERED = 100
"""Adaptations of which metrics and states tell; older ones are forgotten, so that neither grows with the run."""
WORTH_SAYING = 1e-4
"""Share of exact zeros from which on it is said that they do not stay zero."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Adaptation:
    """Record what one adaptation did, for metrics and logs.

    Attributes:
        refused: nothing could be fitted, and it was tried again at the steps that followed. Only the first of
            several refusals in a row is remembered.
    """

    step: int
    accepted: bool
    version: int
    levels_before: list[float]
    levels_after: list[float]
    objective_before: float
    objective_after: float
    reason: str
    refused: bool = False

    def as_plain(self) -> dict[str, Any]:
        """Return the fields by name, with lists of their own."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: list(value) if isinstance(value, list) else value for name, value in own.items()}


class AdaptiveShot:
    """Hold the levels of one hop and fit them to what the hop quantises.

    Args:
        index: 0 for gradients, 1 for sums of them.
        config: how coordinates become codes.
        policy: fits the next table.
        initial: the table until then.
        feeds_back: records are made with a residual: where blocks have their own widths, those without bits are then
            left out, and not kept at random.

    Attributes:
        relative_variance: of the latest measurement.
        is_measured: that was with the levels in force.
        noisy_zeros: the share of coordinates that were exactly zero then, and came out as noise.
        fit_is_due: the gradients of the last scheduled step could not be used, those of the next step shall be.
    """

    def __init__(
        self, index: int, config: QuantiserConfig, policy: Policy, initial: AnyLevels, feeds_back: bool = False
    ) -> None:
        config.require_fit(initial)
        self.index = index
        self.config = config
        self.levels = initial
        self.relative_variance: float | None = None
        self.noisy_zeros = 0.0
        self.is_measured = False
        self.fit_is_due = False
        self._measured_with = initial
        self._told: set[str] = set()
        self.adaptations: deque[Adaptation] = deque(maxlen=REMEMBERED)
        self._policy = policy
        self._feeds_back = feeds_back
        self.forget()

    @property
    def contracts(self) -> bool:
        """Return whether a record loses less than it carries, as far as was measured."""
        return self.relative_variance is None or self.relative_variance < 1

    @property
    def _was_refused(self) -> bool:
        return bool(self.adaptations) and self.adaptations[-1].refused

    def forget(self) -> None:
        """Drop what was gathered and measured in the open step."""
        self._statistics = GradientStatistics.empty(self._policy.weight_exponent)
        self._failure = ""
        self._squared_error = self._squared_norm = 0.0
        self._noisy_zeros = self._measured_elements = 0
        self._measured_all = True

    def gather(self, codec: Codec, values: Values) -> None:
        """Add ``values`` to what the next table is fitted to."""
        self._statistics = self._statistics + codec.statistics(values, self.config, self._policy.weight_exponent)

    def fail(self, error: Exception, what: str, rank: int) -> None:
        """Let the open step's fit be refused on all ranks, because ``error`` kept this one from gathering anything."""
        self._failure = f"rank {rank}: {what} failed: {type(error).__name__}: {error}"
        if not self._was_refused:
            _logger.error("rank %d: %s failed; levels stay until it works", rank, what, exc_info=error)

    def measure(self, codec: Codec, values: Values, key: StreamKey) -> None:
        """Decode this rank's own record and add up its error: a sample of |Q(v) - v|^2 and of |v|^2."""
        self._measured_with = self.levels
        layout = RecordLayout(len(values), self.config)
        stamp = Stamp(self.levels.digest, 0, 0)
        leaves_out = self._feeds_back and layout.blocks > 0
        residual = codec.arrays.zeros(len(values)) if leaves_out else None
        record = codec.encode(values, layout, self.levels, key, stamp, residual)
        error = codec.arrays.error(codec.decode_sum([record], layout, self.levels, [stamp], 1.0), values)
        if error is None:
            self._measured_all = False
        else:
            self._squared_error += error.squared
            self._squared_norm += error.norm
            self._noisy_zeros += error.zeros
            self._measured_elements += len(values)

    def adapt(self, control: Communicator, step: int, name: str) -> int:
        """Fit the levels of the next step, together with all ranks, and return how many bytes this rank sent.

        A rank that had no part of this hop (more ranks than buckets) takes part with empty statistics.

        All ranks must agree on: current levels, policy, step, name.
        """
        before, again = self.levels, self._was_refused
        gathered = self._failure or self._statistics
        agreement = agree(control, gathered, self._policy, before, f"{name}.adaptation{self.index}", again=again)
        update, self.fit_is_due = agreement.update, agreement.refused
        self.levels = update.levels
        record = Adaptation(
            step=step,
            accepted=update.levels != before,
            version=update.levels.version,
            levels_before=before.values.tolist(),
            levels_after=update.levels.values.tolist(),
            objective_before=update.objective_before,
            objective_after=update.objective_after,
            reason=update.reason,
            refused=agreement.refused,
        )
        if not (again and record.refused):
            self.adaptations.append(record)
            if control.rank == LEADER:
                self._log(record)
        return agreement.bytes_sent

    def _log(self, record: Adaptation) -> None:
        where = f"step {record.step}" + (f", shot {self.index + 1}" if self.index else "")
        if record.refused:
            _logger.warning("%s: levels could not be fitted and stay: %s. Every step tries again until one can be used",
                            where, record.reason)  # fmt: skip
        elif record.accepted:
            _logger.info("%s: objective %.4g -> %.4g, levels %s", where, record.objective_before,
                         record.objective_after, self.levels)  # fmt: skip
        else:
            _logger.info("%s: levels stay: %s", where, record.reason)

    def end_step(self) -> bool:
        """Turn the step's measurements into ``relative_variance``, and forget what was gathered.

        Where a gradient was not finite the others do not stand for it: that step measures nothing. Returns whether
        ``contracts`` has changed.
        """
        contracted = self.contracts
        if self._squared_norm > 0 and self._measured_all:
            self.relative_variance = self._squared_error / self._squared_norm
            self.noisy_zeros = self._noisy_zeros / self._measured_elements
            self.is_measured = True
        self.is_measured &= self._measured_all and self._measured_with == self.levels
        self.forget()
        return self.contracts != contracted

    def warn(self, rank: int, step: int, method: str, *, of_loss: bool) -> None:
        """Say, once each, that the levels in force lose more than they carry, or make noise of zeros.

        Args:
            of_loss: nobody else says the first.
        """
        if not self.is_measured:
            return
        if of_loss and not self.contracts and "loss" not in self._told:
            self._told.add("loss")
            unfitted = self._policy.adapts and (self.fit_is_due or not self.adaptations)
            _logger.warning(
                "rank %d, step %d: expected levels that lose less than they carry, those of shot %d lose %.3g times as "
                "much (relative variance), with %s at %s bits in buckets of %d. Training may diverge. %sUse more "
                "bits, method optimal or eden, rotate=True, or a smaller bucket_size",
                rank,
                step,
                self.index + 1,
                self.relative_variance,
                method,
                self.config.mean_bits,
                self.config.bucket_size,
                "They are still to be fitted. " if unfitted else "",
            )
        if self.noisy_zeros >= WORTH_SAYING and "zeros" not in self._told:
            self._told.add("zeros")
            _logger.warning(
                "rank %d, step %d: expected zeros to stay zero, %.3g of the coordinates of shot %d are exactly zero "
                "and come out as noise: weights that are frozen, masked or pruned, and rows of embeddings that were "
                "not seen, drift, with Adam by a learning rate a step. %s, or leave such parameters out of "
                "named_parameters",
                rank,
                step,
                self.noisy_zeros,
                self.index + 1,
                self._cure_of_noisy_zeros(),
            )

    def _cure_of_noisy_zeros(self) -> str:
        if self.config.rotate:
            return "A rotation spreads a bucket over its zeros: take rotate=False and a method other than eden"
        return "Take at least two bits" if self.config.bits == 1 else "Take zero_level=True"

    def metrics(self) -> dict[str, Any]:
        """Return the levels and their history, as plain values."""
        return {
            "relative_variance": self.relative_variance,
            "levels_version": self.levels.version,
            "levels": self.levels.values.tolist(),
            "fit_is_due": self.fit_is_due,
            "adaptations": [adaptation.as_plain() for adaptation in self.adaptations],
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain values."""
        return {
            "levels": self.levels.state_dict(),
            "relative_variance": self.relative_variance,
            "is_measured": self.is_measured,
            "fit_is_due": self.fit_is_due,
            "adaptations": [adaptation.as_plain() for adaptation in self.adaptations],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        States of versions that lost a refused fit do not say whether one is due: it is, where the last one was refused.
        """
        levels = self.levels.from_state_dict(state["levels"])
        self.config.require_fit(levels)
        adaptations = [Adaptation(**entry) for entry in state["adaptations"]]
        self.relative_variance, self.is_measured = state["relative_variance"], bool(state["is_measured"])
        self.levels, self.adaptations = levels, deque(adaptations, REMEMBERED)
        lost = bool(adaptations) and not adaptations[-1].accepted and math.isnan(adaptations[-1].objective_before)
        self.fit_is_due = bool(state.get("fit_is_due", lost))
        self._measured_with = levels
