"""Steps without compression at the start, and other options in the middle: agreed by all ranks, and nothing is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.errors import AlqError, CallOrderError, ConfigurationError, ConfigurationMismatch
from tests.support.cases import each
from tests.support.small_model import SHAPES, backward, compressor, exact, model, named_gradients
from tests.support.stand_in import reduce_gradients


def off(results: dict[str, Any], step: int, size: int) -> float:
    """Return the relative error of a step's gradients."""
    wanted = exact(step, size)
    distance = sum(float(np.square(results[name].numpy() - wanted[name]).sum()) for name in SHAPES if name != "bias")
    return distance / sum(float(np.square(wanted[name]).sum()) for name in SHAPES if name != "bias")


def test_steps_before_start_at_are_exact_and_count_and_their_fit_is_done_in_the_first_one_that_is_not() -> None:
    def program(ranks: LoopbackCommunicator) -> tuple[list[float], dict[str, Any]]:
        parameters = model()
        compression = compressor(ranks, parameters, method="optimal", start_at=3, schedule=[0], exchange="two_shot")
        errors = []
        for step in range(5):
            backward(parameters, ranks.rank, step)
            errors.append(off(reduce_gradients(ranks, compression, named_gradients(parameters)), step, 3))
        return errors, compression.metrics()

    for errors, metrics in LoopbackWorld(3).run(program):
        assert max(errors[:3]) < 1e-12 < 1e-4 < min(errors[3:])
        assert metrics["step"] == 5
        assert [fit["step"] for fit in metrics["adaptations"]] == [3]


@each("change", [{"bits": 8}, {"exchange": "two_shot"}, {"method": "eden"}, {"fusion_elements": 100}])
def test_other_options_hold_from_the_next_step_on(change: dict[str, Any]) -> None:
    def program(ranks: LoopbackCommunicator) -> tuple[list[float], dict[str, Any], int, dict[str, Any]]:
        parameters = model()
        compression = compressor(ranks, parameters, method="optimal", bits=4, exchange="allgather", schedule=[0])
        errors: list[float] = []
        for step in range(4):
            if step == 2:
                before = compression.metrics()
                compression.reconfigure(**change)
            backward(parameters, ranks.rank, step)
            errors.append(off(reduce_gradients(ranks, compression, named_gradients(parameters)), step, 2))
        state = compression.state_dict()
        twin = compressor(ranks, parameters, **{"method": "optimal", "bits": 4, "exchange": "allgather", **change})
        twin.load_state_dict(state)
        assert twin.metrics()["step"] == 4
        return errors, compression.metrics(), before["bytes_per_step"], before

    told = LoopbackWorld(2).run(program)
    errors, metrics, bytes_before, before = told[0]
    assert metrics["step"] == 4
    assert metrics["bytes_total"] > before["bytes_total"]
    assert metrics["seconds"]["encode"] > before["seconds"]["encode"]
    assert max(errors) < 0.1
    if change == {"bits": 8}:
        assert max(errors[2:]) < 0.01 < min(errors[:2]) * 10
        assert metrics["bytes_per_step"] > 1.5 * bytes_before
        assert [fit["step"] for fit in metrics["adaptations"]] == [2]  # new levels, fitted at once
    if change == {"exchange": "two_shot"}:
        assert metrics["exchange"] == "two_shot"
        assert [fit["step"] for fit in metrics["adaptations"]] == [0]  # kept
        assert [fit["step"] for fit in metrics["later_shots"][0]["adaptations"]] == [2]
    if change == {"method": "eden"}:
        assert metrics["method"] == "eden"


def test_a_rank_that_changes_alone_is_stopped_by_an_error_and_so_are_the_others() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        compression = compressor(ranks, parameters, method="qsgdinf", bits=4, exchange="allgather")
        backward(parameters, ranks.rank, 0)
        reduce_gradients(ranks, compression, named_gradients(parameters))
        if ranks.rank == 1:
            compression.reconfigure(bits=5)
        backward(parameters, ranks.rank, 1)
        with pytest.raises(ConfigurationMismatch, match="other options"):
            reduce_gradients(ranks, compression, named_gradients(parameters))

    LoopbackWorld(2).run(program)


def test_what_can_not_be_changed_leaves_everything_as_it_was() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        compression = compressor(ranks, parameters, method="qsgdinf", bits=4, exchange="allgather")
        wrong: list[tuple[dict[str, Any], type[Exception]]] = [
            ({"bits": 9}, ConfigurationError),
            ({"name": "other"}, ConfigurationError),
            ({"bitz": 3}, TypeError),
            ({"exchange": "allgather", "bits": (4, 8)}, AlqError),
        ]
        for changes, error in wrong:
            with pytest.raises(error):
                compression.reconfigure(**changes)
        backward(parameters, ranks.rank, 0)
        first, *_ = named_gradients(parameters)
        compression.compress(first[1])
        with pytest.raises(CallOrderError, match="reconfigure: call it between steps"):
            compression.reconfigure(bits=5)
        assert compression.options.bits == 4

    LoopbackWorld(2).run(program)
