"""The hook under torch's own DDP, on four real ranks over Gloo."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from tests.support.launch import PROGRAMS, run_ranks

pytestmark = [pytest.mark.multirank, pytest.mark.timeout(330)]
QUANTISED = ("two_shot", "allgather", "hierarchical", "feedback", "views", "static", "uneven", "bf16", "fp16")
CASES = (*QUANTISED, "plain", "exact", "auto", "none", "late", "unused", "accumulated", "delayed")


@pytest.fixture(scope="module")
def outcome() -> list[dict[str, Any]]:
    results, _ = run_ranks([sys.executable, str(PROGRAMS / "ddp.py")], 4, timeout=300, check=True)
    return results


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    return float(np.abs(np.array(one["weights"]) - np.array(other["weights"])).max())


def test_weights_are_the_same_bit_for_bit_on_every_rank(outcome: list[dict[str, Any]]) -> None:
    for case in CASES:
        assert len({rank[case]["digest"] for rank in outcome}) == 1, case


def test_weights_are_near_those_of_plain_ddp_and_exact_where_nothing_is_lost(
    outcome: list[dict[str, Any]],
) -> None:
    told = outcome[0]
    for case, like, near in (
        ("none", "plain", 0),
        ("exact", "plain", 1e-6),
        ("accumulated", "plain accumulated", 1e-6),
        *((case, "plain", 0.01) for case in QUANTISED if case != "uneven"),
    ):
        assert distance(told[case], told[like]) <= near, case
    assert all(distance(told[case], told["plain"]) > 0 for case in ("two_shot", "allgather", "hierarchical"))


def test_ranks_that_ran_out_of_inputs_count_as_zeros(outcome: list[dict[str, Any]]) -> None:
    assert [rank["uneven"]["step"] for rank in outcome] == [5] * 4


def test_a_run_that_goes_on_from_a_checkpoint_is_the_same_run(outcome: list[dict[str, Any]]) -> None:
    for rank in outcome:
        assert rank["resumed"][0] == rank["resumed"][1]


def test_a_process_group_of_some_ranks_trains_apart(outcome: list[dict[str, Any]]) -> None:
    digests = [rank["part"]["digest"] for rank in outcome]
    assert digests[0] == digests[1] != digests[2] == digests[3]


def test_horovod_is_not_imported_and_lightning_finds_no_annotation(outcome: list[dict[str, Any]]) -> None:
    assert not any(rank["horovod"] for rank in outcome)
    assert outcome[0]["seen as"] == "(state, bucket)"
    assert outcome[0]["metrics"]["step"] == 4


def test_what_can_not_work_is_one_clear_error_on_every_rank(outcome: list[dict[str, Any]]) -> None:
    for case, text in (
        ("options", "ConfigurationMismatch: bits: rank 0 has 3, rank 1 has 4"),
        ("method", "ConfigurationMismatch: method: rank 0 has amq, rank 1 has alq"),
        ("twice", "can only be called once"),
        ("two models", "CallOrderError: expected gradients of the 10 parameters of the first step"),
        ("sparse", "UnsupportedTensor: expected dense gradients"),
    ):
        for rank in outcome:
            assert text in rank["errors"][case], case
    for number, rank in enumerate(outcome[1:], 1):
        assert f"CommunicationTimeout: rank {number}: " in rank["errors"]["hook on some"]
