"""Training as it really is: uneven batches, several optimizers, hooks in any order, calls that come twice."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.support.launch import PROGRAMS, horovodrun, run_ranks

pytestmark = [pytest.mark.multirank, pytest.mark.timeout(300)]
EVERYTHING = "join,two_optimizers,synchronize_twice,sparse_as_dense,direct_call"


@pytest.fixture(scope="module", params=[(2, False), (3, True)], ids=["2 ranks MPI", "3 ranks Gloo"])
def told(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    ranks, gloo = request.param
    results, _ = horovodrun(ranks, "messy.py", EVERYTHING, gloo=gloo, timeout=250)
    return results


def test_a_rank_that_joins_early_costs_nothing_but_the_steps_it_has_left_out(told: list[dict[str, Any]]) -> None:
    """As plain Horovod does, and steps that some rank left out do not count: fits stay on the steps that all take."""
    for exchange in ("allgather", "two_shot", "auto"):
        runs = [rank["join"][exchange] for rank in told]
        assert [len(run["errors"]) for run in runs] == [2, *[0] * (len(runs) - 1)], exchange
        assert max(runs[0]["errors"]) < 1e-6, exchange
        assert all(run["step"] == 6 and run["fits"] == [3] for run in runs), exchange


def test_two_optimizers_share_no_gradient_in_any_order_of_hooks(told: list[dict[str, Any]]) -> None:
    for rank in told:
        assert rank["two_optimizers"] == [1.0, 100.0]


def test_a_second_synchronize_changes_nothing_and_clipped_gradients_stay_clipped(told: list[dict[str, Any]]) -> None:
    for rank in told:
        twice = rank["synchronize_twice"]
        assert twice["changed"] < 1e-6  # as with plain Horovod, which divides a sum of equals
        assert twice["clipped"] == pytest.approx([0.01] * 3, rel=1e-3)
        assert twice["step"] == 3


def test_dense_forms_of_sparse_gradients_are_compressed(told: list[dict[str, Any]]) -> None:
    """Two tables of 50 x 16; each word adds 16 ones, times the number of the table among those used."""
    ranks = len(told)
    first = [48 * (ranks - 1) / ranks, (96 * (ranks - 1) + 48) / ranks]
    for rank in told:
        table = rank["sparse_as_dense"]
        assert table["sums"] == [pytest.approx(first), [48.0, 96.0], [48.0, 96.0]]
        assert (table["step"], table["compressed"]) == (3, 1600)


def test_a_tensor_of_the_programs_own_is_averaged_and_left_as_it_was(told: list[dict[str, Any]]) -> None:
    for rank in told:
        assert rank["direct_call"]["kept"] is True
        assert all(0 < off < 0.05 for off in rank["direct_call"]["off"])


def test_parts_of_mpis_world_adapt_apart() -> None:
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "4"]
    command = [*mpirun, sys.executable, str(PROGRAMS / "parts_of_the_world.py")]
    results, _ = run_ranks(command, 4, timeout=250, check=True)
    assert all(result["fits"] == [True] and result["step"] == 4 for result in results)
    assert results[0]["levels"] == results[1]["levels"] != results[2]["levels"] == results[3]["levels"]
