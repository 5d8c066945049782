"""The one mutable object: the step, the levels, the fusion groups in flight, the counters."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alq_hvd.adaptation.agreement import LEADER, agree
from alq_hvd.codec.base import Codec, FloatArray
from alq_hvd.codec.keys import stream_key
from alq_hvd.communicator.base import Communicator
from alq_hvd.errors import StateError
from alq_hvd.exchange.allgather import allgather
from alq_hvd.exchange.base import InFlight, Task
from alq_hvd.ledger import Ledger
from alq_hvd.levels import Levels
from alq_hvd.options import Options
from alq_hvd.statistics import GradientStatistics
from alq_hvd.wire import RecordLayout, Stamp

_logger = logging.getLogger(__name__)
STATE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Adaptation:
    """Record what one adaptation did, for metrics and logs."""

    step: int
    accepted: bool
    version: int
    levels_before: list[float]
    levels_after: list[float]
    objective_before: float
    objective_after: float
    reason: str


class Aggregator:
    """Sum fusion groups over the ranks, and fit the levels to them as it goes.

    ``connect`` it once; then in each step ``start`` every group once, take every group's ``result`` once, and
    ``end_step``. All ranks must agree on the options, the groups and their lengths, and take the same number of steps;
    groups may be started in any order.

    Args:
        options: shared by all ranks.
        codec: turns groups into records.
    """

    def __init__(self, options: Options, codec: Codec) -> None:
        self._options = options
        self._method = options.resolve()
        self._config = options.quantiser()
        self._schedule = options.parsed_schedule()
        self._codec = codec
        self._communicator: Communicator | None = None
        self._control: Communicator | None = None
        self._in_flight: dict[int, InFlight] = {}
        self._statistics: GradientStatistics | None = None
        self._squared_error = self._squared_norm = 0.0
        self.ledger = Ledger()
        self.step = 0
        self.levels: Levels = self._method.initial(options.bits)
        self._config.require_fit(self.levels)
        self.relative_variance: float | None = None
        self.adaptations: list[Adaptation] = []

    def connect(self, communicator: Communicator, control: Communicator) -> None:
        """Join the world that ``communicator`` reaches; what was in flight in an older world is forgotten.

        Args:
            communicator: carries the records.
            control: carries statistics and levels; may be the same.
        """
        self._communicator, self._control = communicator, control
        self._in_flight = {}
        self._statistics = None
        self._squared_error = self._squared_norm = 0.0

    @property
    def levels_fingerprint(self) -> int:
        """Return 16 bits that change with the levels and their version."""
        return (self.levels.digest ^ self.levels.version) & 0xFFFF

    @property
    def gathers_statistics(self) -> bool:
        """Return whether the open step's gradients fit the next levels."""
        return self._method.policy.adapts and self.step in self._schedule

    def start(self, group: int, values: FloatArray) -> None:
        """Encode ``values`` float32[elements] and start their exchange; they may be overwritten afterwards."""
        assert self._communicator is not None
        if self.gathers_statistics:
            with self.ledger.timed("adapt"):
                self._gather(values)
        task = Task(
            codec=self._codec,
            communicator=self._communicator,
            config=self._config,
            levels=self.levels,
            ledger=self.ledger,
            name=f"{self._options.name}.group{group}",
            seed=self._options.seed,
            step=self.step,
            group=group,
        )
        self._in_flight[group] = InFlight(allgather(values, task), self.ledger)
        if self.gathers_statistics or self.step % self._options.measure_every == 0:
            self._measure(group, values)

    def advance(self) -> None:
        """Move every group forward whose collective has arrived, without waiting."""
        for exchange in self._in_flight.values():
            exchange.advance()

    def result(self, group: int, scale: float) -> FloatArray:
        """Wait for ``group`` and return float32[elements]: ``scale`` times the sum of the quantised gradients."""
        return self._in_flight.pop(group).finish(scale)

    def end_step(self) -> None:
        """Close the step; at a scheduled one fit the levels of the next, together with all ranks."""
        if self._statistics is not None:
            with self.ledger.timed("adapt"):
                self._adapt(self._statistics)
            self._statistics = None
        if self._squared_norm > 0:
            self.relative_variance = self._squared_error / self._squared_norm
        self._squared_error = self._squared_norm = 0.0
        self.ledger.end_step()
        self.step += 1

    def _gather(self, values: FloatArray) -> None:
        gathered = self._codec.statistics(values, self._config, self._method.policy.weight_exponent)
        self._statistics = gathered if self._statistics is None else self._statistics + gathered

    def _adapt(self, statistics: GradientStatistics) -> None:
        assert self._control is not None
        before = self.levels
        agreement = agree(self._control, statistics, self._method.policy, before, f"{self._options.name}.adaptation")
        update = agreement.update
        self.levels = update.levels
        self.ledger.sent(agreement.bytes_sent)
        record = Adaptation(
            step=self.step,
            accepted=update.levels != before,
            version=update.levels.version,
            levels_before=before.values.tolist(),
            levels_after=update.levels.values.tolist(),
            objective_before=update.objective_before,
            objective_after=update.objective_after,
            reason=update.reason,
        )
        self.adaptations.append(record)
        if self._control.rank != LEADER:
            return
        if record.accepted:
            _logger.info("step %d: objective %.4g -> %.4g, levels %s", self.step, update.objective_before,
                         update.objective_after, self.levels)  # fmt: skip
        else:
            _logger.info("step %d: levels stay: %s", self.step, update.reason)

    def _measure(self, group: int, values: FloatArray) -> None:
        """Decode this rank's own record and add up its error: a sample of |Q(g) - g|^2 and of |g|^2."""
        assert self._communicator is not None
        layout = RecordLayout(len(values), self._config)
        rank = self._communicator.rank
        stamp = Stamp(self.levels.digest, self.step % 2**32, rank)
        key = stream_key(seed=self._options.seed, step=self.step, rank=rank, group=group, shot=0)
        record = self._codec.encode(values, layout, self.levels, key, stamp)
        decoded = self._codec.decode_sum([record], layout, self.levels, [stamp], 1.0).astype(np.float64)
        if np.isfinite(decoded).all():
            wide = values.astype(np.float64)
            self._squared_error += float(np.square(decoded - wide).sum())
            self._squared_norm += float(np.square(wide).sum())

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to continue bit for bit: call it between steps."""
        return {
            "state_version": STATE_VERSION,
            "method": self._options.method,
            "bits": self._options.bits,
            "seed": self._options.seed,
            "step": self.step,
            "levels": self.levels.state_dict(),
            "relative_variance": self.relative_variance,
            "adaptations": [asdict(adaptation) for adaptation in self.adaptations],
            "bytes_total": self.ledger.bytes_total,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            StateError: when the state is of another method, width or seed, or is not such a state.
        """
        try:
            for name in ("state_version", "method", "bits", "seed"):
                expected = STATE_VERSION if name == "state_version" else getattr(self._options, name)
                if state[name] != expected:
                    raise StateError(f"{name}: expected {expected!r}, got a state with {state[name]!r}")
            levels = Levels.from_state_dict(state["levels"])
            self._config.require_fit(levels)
            self.adaptations = [Adaptation(**entry) for entry in state["adaptations"]]
            self.step, self.levels = int(state["step"]), levels
            self.relative_variance = state["relative_variance"]
            self.ledger.bytes_total = int(state["bytes_total"])
        except (KeyError, TypeError) as error:
            raise StateError(f"expected the result of state_dict(), got one without {error}") from error
