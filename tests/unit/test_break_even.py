"""Where compression would not pay, gradients go to the plain all-reduce: on every rank, said once, and exact."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pytest
import torch

import alq_hvd
from alq_hvd.codec.choice import choose_codec
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.engine import chosen_exchange
from alq_hvd.engine.aggregator import Aggregator
from alq_hvd.engine.options import Options
from alq_hvd.engine.transport import PlainTransport
from alq_hvd.errors import ConfigurationError, ConfigurationMismatch
from alq_hvd.exchange import trial
from alq_hvd.exchange.break_even import MARGIN, PLAIN, Decision, Line, decide
from alq_hvd.exchange.plain import GatheredAllreduce
from alq_hvd.exchange.two_shot import two_shot
from tests.support.exchanging import gradient
from tests.support.stand_in import reduce_gradients


def test_a_line_through_two_measurements() -> None:
    line = Line.through((1000, 0.003), (11_000, 0.013))
    assert line.seconds([1000]) == pytest.approx(0.003)
    assert line.seconds([21_000]) == pytest.approx(0.023)
    assert line.seconds([21_000, 1000, 1000]) == pytest.approx(0.029)


@pytest.mark.parametrize(("small", "large"), [(0.005, 0.001), (0.0001, 0.1)])
def test_noise_makes_no_message_cheaper_than_nothing(small: float, large: float) -> None:
    line = Line.through((1000, small), (11_000, large))
    assert line.fixed >= 0
    assert line.per_element >= 0


@pytest.mark.parametrize(
    ("times", "choice"),
    [
        ({"fp32": 1.0, "fp16": 0.5, "allgather": 0.4, "two_shot": 0.3}, "two_shot"),
        ({"fp32": 1.0, "fp16": 0.5, "allgather": 0.3, "two_shot": 0.4}, "allgather"),
        ({"fp32": 1.0, "fp16": 0.5, "two_shot": 1.1}, PLAIN),
        ({"fp32": 1.0, "fp16": 0.5, "two_shot": 1.0 - MARGIN + 1e-6}, PLAIN),
        ({"fp32": 1.0, "fp16": 2.0, "two_shot": 1.0 - MARGIN - 1e-6}, "two_shot"),
    ],
)
def test_compression_is_used_where_it_is_faster_by_more_than_predictions_err(
    times: dict[str, float], choice: str
) -> None:
    decision = decide({name: Line(0.0, seconds / 1000) for name, seconds in times.items()}, [600, 400])
    assert decision.choice == choice
    assert decision.seconds == pytest.approx(times)


def test_predictions_lean_towards_plain_horovod() -> None:
    """It fuses what we send in groups, and we wait for its small message of probes besides."""
    decision = decide({"fp32": Line(0.01, 1e-6), "fp16": Line(0.02, 1e-6), "two_shot": Line(0.03, 1e-7)}, [600, 400])
    assert decision.seconds == pytest.approx({"fp32": 0.011, "fp16": 0.021, "two_shot": 0.0701})


def test_a_size_of_groups_is_taken_that_is_noticeably_faster_and_grows_with_the_root_of_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Timed: 2**21 elements in groups of 2**21 to 2**18."""
    cases = {
        "the fastest": ({2**21: 9.0, 2**20: 8.0, 2**19: 7.0, 2**18: 8.0}, 2**21, 2**21, 2**19),
        "four times the step, twice the group": ({2**21: 9.0, 2**20: 8.0, 2**19: 7.0, 2**18: 8.0}, 2**23, 2**22, 2**20),
        "the usual, hardly slower": ({2**21: 9.0, 2**20: 7.2, 2**19: 7.0, 2**18: 8.0}, 2**21, 2**20, 2**20),
        "no smaller than small": ({2**21: 9.0, 2**20: 8.0, 2**19: 7.0, 2**18: 1.0}, 2**15, 2**22, 2**17),
    }

    def measured(ranks: LoopbackCommunicator, elements: int, usual: int) -> int:
        aggregator = Aggregator(Options(method="qsgdinf", bits=4, exchange="two_shot"), choose_codec("auto"))
        aggregator.connect(PlainTransport(ranks), ranks)
        return trial.fuse_by_time(aggregator._task("trial", 0, aggregator._codec), two_shot, elements, usual, 0.001)

    for name, (times, elements, usual, expected) in cases.items():
        best = {str(size): [seconds] for size, seconds in times.items()}
        monkeypatch.setattr(trial, "_best_times", lambda runs, task, best=best: {size: best[size] for size in runs})
        assert LoopbackWorld(2).run(lambda ranks, e=elements, u=usual: measured(ranks, e, u)) == [expected] * 2, name


def test_the_size_of_groups_is_the_leaders_finding() -> None:
    def measured(ranks: LoopbackCommunicator) -> int:
        aggregator = Aggregator(Options(method="qsgdinf", bits=4, exchange="two_shot"), choose_codec("auto"))
        aggregator.connect(PlainTransport(ranks), ranks)
        slow = 1000.0  # a slow link: the smaller part is timed
        return trial.fuse_by_time(aggregator._task("trial", 0, aggregator._codec), two_shot, 2**19, 2**17, slow)

    first, *others = LoopbackWorld(3).run(measured)
    assert others == [first] * 2
    assert 2**17 <= first <= 2**19


def average_over(ranks: LoopbackCommunicator) -> GatheredAllreduce:
    """Return a stand-in for Horovod's all-reduce."""
    return GatheredAllreduce(ranks)


def test_the_leader_decides_for_all() -> None:
    """Every rank measures something else; all must do what rank 0 found best."""

    def program(ranks: LoopbackCommunicator) -> Decision:
        aggregator = Aggregator(Options(method="qsgdinf", bits=4), choose_codec("auto"))
        aggregator.connect(PlainTransport(ranks), ranks)
        return aggregator.choose_by_time([5000, 300], average_over(ranks))

    decisions = LoopbackWorld(3).run(program)
    assert all(decision == decisions[0] for decision in decisions)
    assert list(decisions[0].seconds) == ["fp32", "fp16", "allgather", "two_shot"]
    assert all(seconds > 0 for seconds in decisions[0].seconds.values())
    assert (decisions[0].choice == PLAIN) == (decisions[0].fusion_elements is None)


def test_measuring_leaves_no_trace_in_statistics_counters_and_random_numbers() -> None:
    def program(ranks: LoopbackCommunicator, settle: bool) -> tuple[bytes, dict[str, Any]]:
        options = Options(method="alq", bits=4, exchange="two_shot", schedule=[0], bucket_size=64)
        aggregator = Aggregator(options, choose_codec("auto"))
        aggregator.connect(PlainTransport(ranks), ranks)
        if settle:
            aggregator.choose_by_time([2000], average_over(ranks))
            assert aggregator.exchange.name == "two_shot"
        aggregator.start(0, gradient(ranks.rank, 2000))
        total = aggregator.result(0, 1.0)
        aggregator.end_step()
        return total.tobytes(), {**aggregator.state_dict(), "break_even": None}

    with_it = LoopbackWorld(2).run(lambda ranks: program(ranks, True))
    without = LoopbackWorld(2).run(lambda ranks: program(ranks, False))
    assert with_it == without


@pytest.mark.parametrize("names", [True, False], ids=["named", "by call order"])
@pytest.mark.parametrize("choice", [PLAIN, "two_shot"])
def test_gradients_go_where_the_decision_says(
    choice: str, names: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    predicted = {"fp32": 2.0, "two_shot": 3.0 if choice == PLAIN else 1.0}
    decided = Decision(choice, predicted)
    monkeypatch.setattr(PlainTransport, "plain", property(lambda transport: average_over(transport.gradients)))
    monkeypatch.setattr(trial, "decide", lambda lines, groups: decided)
    monkeypatch.setattr(chosen_exchange, "fuse_by_time", lambda *arguments: 2000)
    caplog.set_level(logging.INFO, "alq_hvd")

    def program(ranks: LoopbackCommunicator) -> dict[str, Any]:
        parameters = {name: torch.nn.Parameter(torch.zeros(2000)) for name in "ab"}
        compression = alq_hvd.Compression.qsgdinf(
            3, 64, break_even=True, communicator=ranks, named_parameters=parameters.items() if names else None
        )
        for step in range(3):
            for parameter in parameters.values():
                parameter.grad = torch.from_numpy(gradient(ranks.rank, 2000, step=step))
            gradients = [(name, parameter.grad) for name, parameter in parameters.items()]
            mean = reduce_gradients(ranks, compression, gradients)["a"].numpy()
            exact = sum(gradient(rank, 2000, step=step) for rank in range(2)) * np.float32(0.5)
            assert np.array_equal(mean, exact) == (choice == PLAIN)
        groups = compression._session.groups.layout.group_elements
        assert groups == ((4000,) if choice == PLAIN else (2000, 2000))
        metrics: dict[str, Any] = compression.metrics()
        return metrics

    for metrics in LoopbackWorld(2).run(program):
        fused = None if choice == PLAIN else 2000
        assert metrics["break_even"] == {"choice": choice, "seconds": predicted, "fusion_elements": fused}
        assert metrics["exchange"] == ("none" if choice == PLAIN else "two_shot")
        assert metrics["step"] == 3
        assert metrics["passed_through_elements"] == (4000 if choice == PLAIN else 0)
    said = [record.getMessage() for record in caplog.records if "break-even" in record.getMessage()]
    assert len(said) == 1
    assert ("gradients go to the plain all-reduce" in said[0]) == (choice == PLAIN)


def test_a_simulated_world_has_no_horovod_to_compare_with() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameter = torch.nn.Parameter(torch.zeros(2000))
        parameter.grad = torch.ones(2000)
        compression = alq_hvd.Compression.alq(
            break_even=True, communicator=ranks, named_parameters=[("parameter", parameter)]
        )
        with pytest.raises(ConfigurationError, match="break_even: expected ranks with an all-reduce.*PlainTransport"):
            reduce_gradients(ranks, compression, [("parameter", parameter.grad)])

    LoopbackWorld(2).run(program)


def settled(ranks: LoopbackCommunicator, state: dict[str, Any] | None = None) -> Aggregator:
    """Return an aggregator that has decided, or that has taken over the decision in ``state``."""
    aggregator = Aggregator(Options(method="qsgdinf", bits=4), choose_codec("auto"))
    if state is not None:
        aggregator.load_state_dict(state)
    aggregator.connect(PlainTransport(ranks), ranks)
    aggregator.choose_by_time([5000], average_over(ranks))
    return aggregator


def test_a_resumed_run_takes_over_the_decision_and_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "decide", lambda lines, groups: Decision("two_shot", {"fp32": 2.0, "two_shot": 1.0}))
    monkeypatch.setattr(chosen_exchange, "fuse_by_time", lambda *arguments: 2**18)
    state = LoopbackWorld(2).run(lambda ranks: settled(ranks).state_dict())[0]
    predicted = {"fp32": 2.0, "two_shot": 1.0}
    assert state["break_even"] == {
        "ranks": 2, "choice": "two_shot", "seconds": predicted, "fusion_elements": 2**18,
    }  # fmt: skip
    assert json.loads(json.dumps(state)) == state

    monkeypatch.setattr(trial, "decide", lambda lines, groups: Decision(PLAIN, {"fp32": 1.0, "two_shot": 2.0}))
    same = LoopbackWorld(2).run(lambda ranks: settled(ranks, state))
    assert all(aggregator.exchange.decision == Decision("two_shot", predicted, 2**18) for aggregator in same)
    assert all(aggregator.exchange.name == "two_shot" for aggregator in same)
    other = LoopbackWorld(3).run(lambda ranks: settled(ranks, state))
    assert all(aggregator.exchange.decision.choice == PLAIN for aggregator in other if aggregator.exchange.decision)
    assert all(aggregator.state_dict()["break_even"]["ranks"] == 3 for aggregator in other)


def test_a_rank_that_alone_resumes_with_a_decision_is_named() -> None:
    """It would not take part in the measurement, and the others would wait for it."""

    def program(ranks: LoopbackCommunicator) -> None:
        parameter = torch.nn.Parameter(torch.zeros(2000))
        parameter.grad = torch.ones(2000)
        compression = alq_hvd.Compression.alq(communicator=ranks, named_parameters=[("parameter", parameter)])
        state = compression.state_dict()
        if ranks.rank == 1:
            state["break_even"] = {"ranks": 2, "choice": PLAIN, "seconds": {}}
        compression.load_state_dict(state)
        with pytest.raises(ConfigurationMismatch, match="break_even: rank 0 has None, rank 1 has"):
            reduce_gradients(ranks, compression, [("parameter", parameter.grad)])

    LoopbackWorld(2).run(program)


def test_a_simulated_world_is_not_measured_unless_asked() -> None:
    def program(ranks: LoopbackCommunicator) -> Any:
        parameter = torch.nn.Parameter(torch.zeros(2000))
        parameter.grad = torch.ones(2000)
        compression = alq_hvd.Compression.alq(communicator=ranks, named_parameters=[("parameter", parameter)])
        reduce_gradients(ranks, compression, [("parameter", parameter.grad)])
        return compression.metrics()

    for metrics in LoopbackWorld(2).run(program):
        assert metrics["break_even"] is None
        assert metrics["exchange"] == "allgather"
