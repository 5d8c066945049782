"""FSDP2 with quantised reductions, on four real ranks over Gloo: sharded, hybrid, in training; and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import alq_hvd
from alq_hvd.errors import ConfigurationError
from tests.support.launch import torchrun

pytestmark = [pytest.mark.multirank, pytest.mark.timeout(310)]


@pytest.fixture(scope="module")
def outcomes() -> list[dict[str, Any]]:
    results, _ = torchrun(4, "sharded.py", timeout=300)
    return results


def test_gradients_on_every_mesh_are_the_exact_ones_within_the_error_of_the_quantiser(outcomes: Any) -> None:
    bounds = {  # of 4-bit codes with fitted levels, for each time that they quantise; `between` halves ranks, too
        "sharded": 0.02,
        "hybrid of FSDP": 0.02,
        "between": 0.02,
        "between, two shots": 0.02,
        "inside and between": 0.04,
        "bfloat16": 0.02,
        "together": 0.02,
        "none": 1e-12,
    }
    for way, bound in bounds.items():
        for outcome in outcomes:
            before, after = outcome["meshes"][way]["errors"]
            assert after < bound, way
            assert after <= before, way
        assert len({tuple(outcome["meshes"][way]["errors"]) for outcome in outcomes}) == 1, way


def test_metrics_name_the_exchange_and_the_levels_that_all_ranks_share(outcomes: Any) -> None:
    ways = outcomes[0]["meshes"]
    assert ways["sharded"]["metrics"]["exchange"] == "reduce_scatter"
    assert ways["between"]["metrics"]["exchange"] == "allgather"
    assert ways["between, two shots"]["metrics"]["exchange"] == "two_shot"
    assert len(ways["between, two shots"]["metrics"]["later_shots"]) == 1
    assert ways["inside and between"]["metrics"]["between"]["exchange"] == "allgather"
    for way in ("sharded", "hybrid of FSDP", "inside and between"):
        metrics = [outcome["meshes"][way]["metrics"] for outcome in outcomes]
        assert [(each["step"], each["levels_version"]) for each in metrics] == [(2, 1)] * 4, way
        assert len({tuple(each["levels"]) for each in metrics}) == 1, way
    assert len({tuple(outcome["resuming"]["levels"]) for outcome in outcomes}) == 1


def test_the_mean_of_many_steps_is_the_gradient(outcomes: Any) -> None:
    told = outcomes[0]["mean"]
    assert told["mean"] < 3 / 50 * told["one"]


def test_a_reduce_scatter_sends_a_seventh_of_the_bytes_and_counts_them(outcomes: Any) -> None:
    for outcome in outcomes:
        told = outcome["traffic"]
        assert told["calls"] == 2  # one a layer: lengths are known
        assert told["counted"] == told["handed"] + told["head"]
        assert told["fp32"] >= 7 * told["handed"]


def test_training_comes_as_far_as_in_float32(outcomes: Any) -> None:
    losses = outcomes[0]["training"]
    first, exact, quantised = losses["fp32"][0], sum(losses["fp32"][-10:]) / 10, sum(losses["4 bits"][-10:]) / 10
    assert exact < 0.7 * first
    assert quantised < 1.1 * exact


def test_gradients_keep_the_factor_and_the_accumulation_that_fsdp_is_told(outcomes: Any) -> None:
    assert outcomes[0]["scaling"]["ratio"] == pytest.approx(4, rel=1e-2)
    assert outcomes[0]["accumulation"]["error"] < 1e-3
    assert outcomes[0]["accumulation"]["steps"] == 2


def test_a_resumed_run_goes_on_bit_for_bit(outcomes: Any) -> None:
    assert all(outcome["resuming"]["equal"] for outcome in outcomes)
    assert "StateError" in outcomes[0]["resuming"]["refused"]


def test_what_can_not_be_served_is_refused_on_every_rank(outcomes: Any) -> None:
    expected = {
        "not sharded": "ConfigurationError: model: expected one that torch.distributed.fsdp.fully_shard",
        "no model": "got list",
        "options differ": "ConfigurationMismatch: bits: rank 0 has 4, rank 2 has 3",
        "models differ": "ConfigurationMismatch: number of modules: rank 0 has 3, rank 1 has 4",
        "no such option": "TypeError: expected options among",
        "out of range": "ConfigurationError: bits: optimal is defined at",
        "residuals": "ConfigurationError: error_feedback: expected between=",
        "break even": "ConfigurationError: break_even: expected None or False",
        "between a grid": "ConfigurationError: between: expected a model sharded over a mesh of one dimension",
        "between itself": "ConfigurationError: between: expected for each rank those with its place on other nodes",
        "a whole grid": "ConfigurationError: between: expected a mesh of one dimension",
        "between words": "ConfigurationError: between: expected a process group",
        "twice": "ConfigurationError: model: expected one without compression, got 0 with one",
        "average": "CallOrderError: rank ",
        "integers": "UnsupportedTensor: rank ",
        "dtypes": "ConfigurationError: model: expected parameters of one dtype, got torch.bfloat16, torch.float32",
        "parameter groups": "ConfigurationError: 0: expected one parameter group, got 2",
        "checkpoint": "StateError: rank 0: 0.weight: expected parameters that every rank has whole",
        "meshes": "ConfigurationError: model: expected one mesh for all its modules",
    }
    for rank, outcome in enumerate(outcomes):
        assert outcome["refusals"].keys() == expected.keys()
        for case, message in expected.items():
            assert message in outcome["refusals"][case], (rank, case)


def test_without_a_process_group_the_error_says_how_to_start() -> None:
    with pytest.raises(ConfigurationError, match="init_process_group"):
        alq_hvd.fsdp.compress(torch.nn.Linear(3, 3))
