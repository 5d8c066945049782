"""Every exchange through stock Horovod, on real ranks over MPI and Gloo."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from tests.support.cases import each
from tests.support.launch import horovodrun

pytestmark = [pytest.mark.multirank, pytest.mark.timeout(300)]
CASES = (
    "exact",
    "two_shot",
    "more_ranks_than_buckets",
    "allgather",
    "break_even",
    "break_even_on_nodes",
    "hierarchical",
    "exact_hierarchical",
    "one_node",
    "rotated",
    "eden",
    "feedback",
)


@pytest.fixture(scope="module", params=[False, True], ids=["mpi", "gloo"])
def outcome(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    results, _ = horovodrun(4, "exchanges.py", gloo=request.param, timeout=280)
    return results


@each("case", CASES)
def test_weights_are_the_same_bit_for_bit_on_every_rank(outcome: list[dict[str, Any]], case: str) -> None:
    assert len({rank[case]["digest"] for rank in outcome}) == 1


@each("case", ["exact", "exact_hierarchical"])
def test_buckets_of_one_coordinate_train_like_fp32(outcome: list[dict[str, Any]], case: str) -> None:
    exact, stock = (np.array(outcome[0][name]["weights"]) for name in (case, "fp32"))
    np.testing.assert_allclose(exact, stock, rtol=2e-5, atol=2e-6)


@each("case", ["two_shot", "more_ranks_than_buckets", "hierarchical", "one_node"])
def test_quantised_sums_stay_near_fp32_but_are_not_it(outcome: list[dict[str, Any]], case: str) -> None:
    quantised, stock = (np.array(outcome[0][name]["weights"]) for name in (case, "fp32"))
    assert 0 < np.abs(quantised - stock).max() < 0.2 * np.abs(stock).max()


def test_horovod_gets_the_whole_sum_of_micro_batches(outcome: list[dict[str, Any]]) -> None:
    """bfloat16 itself would stop at 256."""
    assert [rank["micro_batches"] for rank in outcome] == [260] * 4


def test_collectives_in_pieces_are_those_in_one(outcome: list[dict[str, Any]]) -> None:
    """Within a unit in the last place: now and then one weight differs by one between two trainings."""
    for case in ("two_shot", "allgather", "hierarchical"):
        for rank in outcome:
            pieces, whole = (np.array(rank[name]["weights"]) for name in (f"{case}_in_pieces", case))
            np.testing.assert_allclose(pieces, whole, rtol=1e-6, atol=1e-8, err_msg=case)


def test_a_node_that_is_done_first_does_not_cut_off_what_another_still_exchanges() -> None:
    results, _ = horovodrun(4, "nodes_apart.py", gloo=True, timeout=100)
    assert results == [[[0, 0], [1, 1]]] * 2 + [[[2, 2], [3, 3]]] * 2


def test_both_shots_adapt_on_real_ranks(outcome: list[dict[str, Any]]) -> None:
    metrics = outcome[0]["two_shot"]["metrics"]
    assert metrics["exchange"] == "two_shot"
    assert [entry["step"] for entry in metrics["adaptations"]] == [0, 3]
    (sums,) = metrics["later_shots"]
    assert len(sums["levels"]) == 256
    assert [entry["step"] for entry in sums["adaptations"]] == [0, 3]
    assert all(rank["two_shot"]["metrics"]["later_shots"][0]["levels"] == sums["levels"] for rank in outcome)


@each(("case", "more"), [("break_even", set()), ("break_even_on_nodes", {"hierarchical"})])
def test_auto_measures_decides_alike_on_every_rank_and_plain_means_exact(
    outcome: list[dict[str, Any]], case: str, more: set[str]
) -> None:
    decisions = [rank[case]["metrics"]["break_even"] for rank in outcome]
    assert all(decision == decisions[0] for decision in decisions)
    assert set(decisions[0]["seconds"]) == {"fp32", "fp16", "allgather", "two_shot"} | more
    weights, stock = (np.array(outcome[0][name]["weights"]) for name in (case, "fp32"))
    exact = bool(np.allclose(weights, stock, rtol=2e-5, atol=2e-6))
    assert exact == (decisions[0]["choice"] == "fp32")


def test_horovods_timeline_shows_the_second_shot_of_one_group_before_the_first_shot_of_the_last() -> None:
    """The last layer's gradient comes first: its sums travel while the first layer's gradient is still awaited.

    Each hook starts what earlier ones have made possible: who takes part is known one hook after the first, the sums
    of that group follow one hook later, and the first layer's gradient comes one hook after that.
    """
    results, _ = horovodrun(2, "timeline.py", timeout=140)
    text = results[0].rstrip().rstrip(",")
    events = json.loads(text if text.endswith("]") else text + "]")
    named = [event for event in events if event.get("name") == "process_name" and "name" in event["args"]]
    names = {event["pid"]: event["args"]["name"] for event in named}
    starts: defaultdict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("ph") == "B" and event["pid"] in names and event["name"] in ("ALLTOALL", "ALLGATHER"):
            starts[names[event["pid"]].rpartition("alq_hvd.")[2]].append(event["ts"])
    started = {name: times[1] for name, times in starts.items() if len(times) > 1}  # in the second step
    groups = [f"group{group}.shot{shot}" for group in (3, 2, 1, 0) for shot in (0, 1)]
    assert set(groups) <= set(started), started
    assert started["group3.shot0"] < started["group3.shot1"] < started["group0.shot0"]
    assert all(started[f"group{group}.shot0"] < started[f"group{group}.shot1"] for group in (2, 1, 0))
