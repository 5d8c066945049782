"""Error feedback under a loss scale, and of what has no gradient: nothing is lost, nothing moves that should not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import alq_hvd
from alq_hvd.checkpoint.plain import pack, unpack
from alq_hvd.codec.choice import choose_codec
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.engine.aggregator import Aggregator
from alq_hvd.engine.options import Options
from alq_hvd.engine.transport import PlainTransport
from alq_hvd.errors import ConfigurationError
from tests.support.exchanging import gradient

ELEMENTS, BUCKET, RANKS = 1000, 64, 3
EXCHANGES = ("allgather", "two_shot")


class Scaler:
    """Scale as PyTorch's GradScaler does: halve and skip where something overflows, else double every few steps."""

    def __init__(self, scale: float, growth_interval: int = 10**6) -> None:
        self.scale, self._interval, self._good = scale, growth_interval, 0

    def get_scale(self) -> float:
        return self.scale

    def update(self, overflowed: bool) -> None:
        self._good = 0 if overflowed else self._good + 1
        if overflowed:
            self.scale /= 2
        elif self._good == self._interval:
            self.scale, self._good = self.scale * 2, 0


def aggregator(ranks: Any, scaler: Scaler | None, exchange: str, **options: Any) -> Aggregator:
    chosen = {"method": "qsgdinf", "bits": 3, "bucket_size": BUCKET, "error_feedback": True, "exchange": exchange}
    made = Aggregator(
        Options(**{**chosen, **options}), choose_codec("auto"), loss_scale=None if scaler is None else scaler.get_scale
    )
    made.connect(PlainTransport(ranks), ranks)
    made.lay_out(77)
    return made


def owed(of: Aggregator) -> np.ndarray:
    """Return what this rank has kept of the group, float64."""
    total = np.zeros(ELEMENTS)
    residuals = of.state_dict()["residuals"]
    for entry in residuals["entries"]:
        total[entry["start"] : entry["start"] + len(entry["values"])] += entry["values"].numpy()
    return total


def missing(
    exchange: str,
    overflows: Callable[[int, float], bool],
    steps: int,
    *,
    asks: bool = True,
    hidden: bool = False,
    growth: int = 10**6,
    resume_at: int = -1,
) -> float:
    """Return how much of what was meant was neither applied nor is still owed, as a share of one step's gradient.

    Args:
        overflows: at a step and scale.
        steps: to train.
        asks: the scaler is asked for its scale; otherwise the compression is told of its changes.
        hidden: what overflows is a small gradient that Horovod reduces by itself.
        growth: good steps from one doubling to the next.
        resume_at: go on from a state after this step.
    """

    def program(ranks: LoopbackCommunicator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scaler = Scaler(2.0**16, growth)
        own = aggregator(ranks, scaler if asks else None, exchange)
        applied, meant = np.zeros(ELEMENTS), np.zeros(ELEMENTS)
        for step in range(steps):
            before, true = scaler.scale, gradient(ranks.rank, ELEMENTS, step=step)
            overflowed = overflows(step, scaler.scale)
            values = true * np.float32(scaler.scale)
            if overflowed and not hidden and ranks.rank == 1:
                values[130] = np.inf
            own.start(0, values)
            result = own.result(0, 1.0).astype(np.float64)
            assert hidden or overflowed == (not np.isfinite(result).all())
            own.end_step()
            if not overflowed:
                applied += result / scaler.scale
                meant += true
            scaler.update(overflowed)
            if not asks and scaler.scale != before:
                own.scale_changed(before, scaler.scale)
            if step == resume_at:
                state = unpack(pack(own.state_dict(), "state"), "state")
                own = aggregator(ranks, scaler if asks else None, exchange)
                own.load_state_dict(state)
        values = np.full(ELEMENTS, 1e-30, np.float32)  # a step more, so that what is owed is of this scale
        own.start(0, values)
        applied += own.result(0, 1.0) / scaler.scale
        own.end_step()
        return applied, meant, owed(own) / scaler.scale

    done = LoopbackWorld(RANKS).run(program)
    total = sum(kept + 0 for _, _, kept in done) + done[0][0] - sum(meant for _, meant, _ in done)
    return float(np.linalg.norm(total) / np.linalg.norm(gradient(0, ELEMENTS)))


def backs_off(step: int, scale: float) -> bool:
    return step in (5, 6, 7)


def test_nothing_is_lost_while_the_scale_falls_and_grows() -> None:
    for exchange in EXCHANGES:
        for case in (
            {"overflows": backs_off, "steps": 12},
            {"overflows": lambda step, scale: scale > 2.0**13, "steps": 12},
            {"overflows": lambda step, scale: scale > 2.0**17, "steps": 20, "growth": 4},
            {"overflows": backs_off, "steps": 12, "hidden": True},
            {"overflows": backs_off, "steps": 12, "resume_at": 4},
            {"overflows": lambda step, scale: False, "steps": 12, "asks": False, "growth": 3},
        ):
            assert missing(exchange, **case) < 1e-4, (exchange, case)


def test_without_a_scaler_the_first_skipped_step_loses_and_says_so_and_the_next_ones_do_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for exchange in EXCHANGES:
        caplog.clear()
        lost = missing(exchange, backs_off, 12, asks=False)
        assert 1e-2 < lost < 2, exchange
        said = [line for line in caplog.messages if "pass grad_scaler=" in line]
        assert sorted(line.split(":")[0] for line in said) == [f"rank {rank}, step 5" for rank in range(RANKS)]
        caplog.clear()
        assert missing(exchange, lambda step, scale: step in (0, 1, 6, 9), 12, asks=False) < 1e-4, exchange
        assert not [line for line in caplog.messages if "pass grad_scaler=" in line]


def test_what_has_no_gradient_any_more_does_not_move_and_is_made_up_for_when_it_has_one_again() -> None:
    frozen = np.zeros(ELEMENTS, dtype=bool)
    frozen[100:400] = True
    frozen[500::3] = True

    def program(ranks: LoopbackCommunicator, exchange: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        own = aggregator(ranks, None, exchange)
        applied, meant = np.zeros(ELEMENTS), np.zeros(ELEMENTS)
        for step in range(9):
            values = gradient(ranks.rank, ELEMENTS, step=step)
            if 3 <= step < 6:
                values[frozen] = 0
            meant += values
            own.start(0, values)
            result = own.result(0, 1.0)
            applied += result
            own.end_step()
            assert not 3 <= step < 6 or not result[frozen].any(), f"{exchange}, step {step}"
            assert np.count_nonzero(owed(own)[frozen]) > 0 or exchange == "two_shot"
        return applied, meant, owed(own)

    for exchange in EXCHANGES:
        done = LoopbackWorld(RANKS).run(lambda ranks, exchange=exchange: program(ranks, exchange))
        total = sum(kept for _, _, kept in done) + done[0][0] - sum(meant for _, meant, _ in done)
        assert np.abs(total).max() < 1e-4, exchange


def test_scales_that_make_no_sense_are_refused() -> None:
    own = Aggregator(Options(method="eden", bits=3, error_feedback=True), choose_codec("auto"))
    for old, new in ((0.0, 1.0), (1.0, -1.0), (1.0, float("nan")), (float("inf"), 1.0)):
        with pytest.raises(ConfigurationError, match="scale"):
            own.scale_changed(old, new)
    asked = Aggregator(Options(method="eden", bits=3), choose_codec("auto"), loss_scale=lambda: 1.0)
    with pytest.raises(ConfigurationError, match="expected no grad_scaler beside it"):
        asked.scale_changed(2.0, 1.0)


def test_the_scaler_is_taken_where_a_compression_is_made() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        compression = alq_hvd.Compression.eden(error_feedback=True, communicator=ranks, grad_scaler=Scaler(8.0))
        assert compression.state_dict()["residuals"]["guarded"] is True
        with pytest.raises(ConfigurationError, match="grad_scaler"):
            compression.scale_changed(1.0, 2.0)

    LoopbackWorld(1).run(program)
