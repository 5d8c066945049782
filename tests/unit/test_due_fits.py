"""A fit that cannot be done at its step is done at the next that can be used: on all ranks, in states and worlds."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from alq_hvd.codec.choice import choose_codec
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.engine.adaptation.shot import REMEMBERED
from alq_hvd.engine.aggregator import Aggregator
from alq_hvd.engine.options import Options
from alq_hvd.engine.transport import PlainTransport
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.policies import Alq, Optimal
from alq_hvd.quantiser.policies.base import LevelUpdate
from alq_hvd.quantiser.statistics import GradientStatistics
from tests.support.exchanging import gradient
from tests.support.small_model import SHAPES, backward, compressor, model, named_gradients
from tests.support.stand_in import reduce_gradients

Spoil = Callable[[np.ndarray, int], None]
"""Spoil, in place, the gradient of a rank."""


def aggregator(ranks: Any, state: dict[str, Any] | None = None, **options: Any) -> Aggregator:
    chosen = {"method": "optimal", "bits": 3, "bucket_size": 64, "exchange": "allgather", "schedule": [0], **options}
    made = Aggregator(Options(**chosen), choose_codec("auto"))
    if state is not None:
        made.load_state_dict(state)
    if ranks is not None:
        made.connect(PlainTransport(ranks), ranks)
    return made


def take(of: Aggregator, rank: int, step: int, spoil: Spoil | None = None) -> bytes:
    """Take one step with this rank's gradient, and return what came out."""
    values = gradient(rank, 1000, step=step)
    if spoil is not None:
        spoil(values, rank)
    of.start(0, values)
    result: bytes = of.result(0, 1.0).tobytes()
    of.end_step()
    return result


def history(of: Aggregator) -> list[list[tuple[int, bool, bool]]]:
    """Return of each shot in use what it remembers: (step, accepted, refused)."""
    return [
        [(entry["step"], entry["accepted"], entry["refused"]) for entry in shot["adaptations"]]
        for shot in of.shots.metrics()
    ]


def overflow_on_one(values: np.ndarray, rank: int) -> None:
    values[rank == 1 and 5] = np.inf if rank == 1 else values[0]


def overflow_on_all(values: np.ndarray, rank: int) -> None:
    values[:] = np.inf


def not_a_number_on_the_leader(values: np.ndarray, rank: int) -> None:
    values[999] = np.nan if rank == 0 else values[999]


def all_zero(values: np.ndarray, rank: int) -> None:
    values[:] = 0


def test_overflow_at_the_scheduled_steps_costs_only_the_steps_that_overflow(caplog: pytest.LogCaptureFixture) -> None:
    """As with a loss scaler, which begins too high and grows on round numbers."""
    for spoil in (overflow_on_one, overflow_on_all, not_a_number_on_the_leader, all_zero):
        for exchange in ("allgather", "two_shot"):
            caplog.clear()

            def program(ranks: LoopbackCommunicator, spoil: Spoil = spoil, exchange: str = exchange) -> Any:
                own = aggregator(ranks, exchange=exchange, schedule=[0, 10])
                for step in range(14):
                    take(own, ranks.rank, step, spoil if step in (0, 1, 2, 10, 11) else None)
                    assert own.shots.all[0].fit_is_due == (step in (0, 1, 2, 10, 11))
                return history(own), [shot["levels"] for shot in own.shots.metrics()]

            case = f"{spoil.__name__}, {exchange}"
            done = LoopbackWorld(3).run(program)
            assert all(other == done[0] for other in done), case
            for shot in done[0][0]:
                assert shot == [(0, False, True), (3, True, False), (10, False, True), (12, True, False)], case
            said = [line for line in caplog.messages if "levels could not be fitted" in line]
            assert len(said) == 2 * len(done[0][0]), case
            assert "Every step tries again until one can be used" in said[0]


def test_each_shot_is_fitted_when_its_own_numbers_can_be_used() -> None:
    """Every rank's gradient is finite, their sum is not: only the second shot waits."""

    def huge(values: np.ndarray, rank: int) -> None:
        values[:] = np.sign(gradient(0, len(values))) * np.float32(3e38)

    def program(ranks: LoopbackCommunicator) -> list[list[tuple[int, bool, bool]]]:
        own = aggregator(ranks, exchange="two_shot")
        for step in range(3):
            take(own, ranks.rank, step, huge if step == 0 else None)
        return history(own)

    first, second = LoopbackWorld(2).run(program)[0]
    assert [step for step, _, _ in first] == [0]
    assert second == [(0, False, True), (1, True, False)]


def test_a_fit_that_fails_on_the_leader_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, calls = Optimal.update, 0

    def fails_twice(self: Optimal, statistics: GradientStatistics, current: Levels) -> LevelUpdate:
        nonlocal calls
        calls += 1
        if calls <= 2:
            raise MemoryError("no room for a graph")
        return real(self, statistics, current)

    monkeypatch.setattr(Optimal, "update", fails_twice)

    def program(ranks: LoopbackCommunicator) -> list[list[tuple[int, bool, bool]]]:
        own = aggregator(ranks)
        for step in range(4):
            take(own, ranks.rank, step)
        return history(own)

    for seen in LoopbackWorld(3).run(program):
        assert seen == [[(0, False, True), (2, True, False)]]
    assert sum(record.exc_info is not None for record in caplog.records) == 1  # one traceback, not one a step


def test_samples_that_can_not_be_had_on_one_rank_are_asked_for_again_on_all(caplog: pytest.LogCaptureFixture) -> None:
    def program(ranks: LoopbackCommunicator) -> tuple[int, list[dict[str, Any]]]:
        parameters, calls = model(), 0

        def sampler() -> Any:
            nonlocal calls
            calls += 1
            yield {name: torch.randn(shape) for name, shape in SHAPES.items()}
            if ranks.rank == 1 and calls <= 2:
                raise OSError("data server is down")

        compression = compressor(ranks, parameters, method="optimal", schedule=[1], sample_gradients=sampler)
        for step in range(6):
            backward(parameters, ranks.rank, step)
            reduce_gradients(ranks, compression, named_gradients(parameters))
        return calls, compression.metrics()["adaptations"]

    done = LoopbackWorld(3).run(program)
    assert len({json.dumps(each) for each in done}) == 1
    calls, (refused, accepted) = done[0]
    assert calls == 3
    assert (refused["step"], accepted["step"], accepted["accepted"]) == (1, 3, True)
    assert refused["reason"] == "rank 1: sample_gradients failed: OSError: data server is down"
    assert "rank 1: sample_gradients failed; levels stay until it works" in caplog.text


def test_a_run_resumed_while_a_fit_is_due_goes_on_bit_for_bit() -> None:
    def program(ranks: LoopbackCommunicator, exchange: str) -> None:
        own = aggregator(ranks, exchange=exchange)
        for step in range(2):
            take(own, ranks.rank, step, overflow_on_one)
        state = json.loads(json.dumps(own.state_dict()))
        expected = [take(own, ranks.rank, step) for step in range(2, 5)]
        assert own.shots.all[0].levels.version == 1

        older = json.loads(json.dumps(state))
        for shot in (older, *older["later_shots"]):
            del shot["fit_is_due"]
            for entry in shot["adaptations"]:
                del entry["refused"]
        for loaded in (state, older):
            resumed = aggregator(ranks, loaded, exchange=exchange)
            assert [take(resumed, ranks.rank, step) for step in range(2, 5)] == expected

    for exchange in ("allgather", "two_shot"):
        LoopbackWorld(2).run(lambda ranks, exchange=exchange: program(ranks, exchange))


def test_an_older_state_in_which_nothing_was_refused_has_nothing_due() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        own = aggregator(ranks)
        take(own, ranks.rank, 0)
        state = own.state_dict()
        del state["fit_is_due"]
        assert not aggregator(ranks, state).shots.all[0].fit_is_due

    LoopbackWorld(2).run(program)


def test_another_world_does_what_the_last_one_could_not() -> None:
    """It had one rank, which quantises nothing, or another exchange, which quantises less often."""
    alone = aggregator(None, exchange="two_shot")
    alone.end_step()
    assert not alone.wants_samples
    few = LoopbackWorld(2).run(lambda ranks: _after_one_step(ranks))[0]

    def program(ranks: LoopbackCommunicator, state: dict[str, Any]) -> list[list[tuple[int, bool, bool]]]:
        own = aggregator(ranks, state, exchange="two_shot")
        for step in range(1, 3):
            take(own, ranks.rank, step)
        return history(own)

    for state, expected in (
        (alone.state_dict(), [[(1, True, False)]] * 2),
        (few, [[(0, True, False)], [(1, True, False)]]),
    ):
        for seen in LoopbackWorld(3).run(lambda ranks, state=state: program(ranks, state)):
            assert seen == expected


def _after_one_step(ranks: LoopbackCommunicator) -> dict[str, Any]:
    own = aggregator(ranks, exchange="auto")
    take(own, ranks.rank, 0)
    assert own.exchange.name == "allgather"
    return own.state_dict()


def test_ranks_that_do_not_know_alike_of_a_fit_that_is_due_are_told_apart() -> None:
    own = aggregator(None)
    before = own.position
    own.end_step()
    assert {**own.position, "completed steps": 0} != before


def test_the_history_of_adaptations_is_bounded() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        own = aggregator(ranks, method="amq", schedule=1)
        for step in range(REMEMBERED + 20):
            take(own, ranks.rank, step)
        state = own.state_dict()
        for told in (own.metrics(), state, aggregator(None, state, method="amq").metrics()):
            steps = [entry["step"] for entry in told["adaptations"]]
            assert steps == list(range(20, REMEMBERED + 20))

    LoopbackWorld(2).run(program)


def losses_told(caplog: pytest.LogCaptureFixture, steps: int, spoil: Spoil | None = None, **options: Any) -> list[str]:
    """Return what two ranks, of 4096 coordinates each, say of their losses in ``steps`` steps."""
    caplog.clear()

    def program(ranks: LoopbackCommunicator) -> None:
        own = aggregator(ranks, **{"bucket_size": 1024, "measure_every": 2, **options})
        for step in range(steps):
            values = gradient(ranks.rank, 4096, step=step)
            if spoil is not None:
                spoil(values, ranks.rank)
            own.start(0, values)
            own.result(0, 0.5)
            own.end_step()

    with caplog.at_level(logging.WARNING):
        LoopbackWorld(2).run(program)
    return [line for line in caplog.messages if "expected levels that lose less than they carry" in line]


def test_levels_that_lose_more_than_they_carry_are_said_so_once_a_rank(caplog: pytest.LogCaptureFixture) -> None:
    cases: dict[str, tuple[int, dict[str, Any]]] = {
        "1 bit alq": (0, {"method": "alq", "bits": 1}),
        "1 bit optimal": (0, {"method": "optimal", "bits": 1}),
        "1 bit qsgdinf": (0, {"method": "qsgdinf", "bits": 1}),
        "3 bit qsgd": (0, {"method": "qsgd"}),
        "before the first fit": (0, {"method": "alq", "schedule": [5]}),
        "and the fitted ones": (1, {"method": "alq", "bits": 2}),
    }
    for name, (step, options) in cases.items():
        said = losses_told(caplog, 6, **options)
        assert sorted(line.split(":")[0] for line in said) == [f"rank {rank}, step {step}" for rank in (0, 1)], name
        assert "Use more bits" in said[0], name
        assert ("still to be fitted" in said[0]) == (name == "before the first fit"), name


def test_levels_that_lose_little_are_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    for options in ({"method": "optimal"}, {"method": "eden", "bits": 1}, {"method": "alq", "bucket_size": 64}):
        assert losses_told(caplog, 4, **options) == [], options


def test_a_refused_fit_leaves_levels_whose_loss_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(self: Alq, statistics: GradientStatistics, current: Levels) -> LevelUpdate:
        raise FloatingPointError

    monkeypatch.setattr(Alq, "update", fails)
    said = losses_told(caplog, 3, method="alq")
    assert "They are still to be fitted" in said[0]
    assert sorted(line.split(":")[0] for line in said) == ["rank 0, step 0", "rank 1, step 0"]
