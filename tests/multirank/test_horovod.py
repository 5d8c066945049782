"""Stock Horovod with stock optimizers, on real ranks over MPI and Gloo."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.cases import each
from tests.support.launch import horovodrun

pytestmark = [pytest.mark.multirank, pytest.mark.timeout(300)]
WORLDS = [
    pytest.param((ranks, gloo), id=f"{'gloo' if gloo else 'mpi'}-{ranks}") for gloo in (False, True) for ranks in (2, 4)
]
Outcome = list[dict[str, Any]]


@pytest.fixture(scope="module", params=WORLDS)
def outcome(request: pytest.FixtureRequest) -> Outcome:
    """Run every scenario once in each world."""
    ranks, gloo = request.param
    results, _ = horovodrun(ranks, "scenarios.py", gloo=gloo, timeout=280)
    return results


def weights(outcome: Outcome, scenario: str) -> np.ndarray:
    return np.array(outcome[0][scenario]["weights"])


@each("scenario", ["alq", "shuffled", "unused", "unnamed", "none", "exact", "all_compressed"])
def test_weights_are_the_same_bit_for_bit_on_every_rank(outcome: Outcome, scenario: str) -> None:
    assert len({rank[scenario]["digest"] for rank in outcome}) == 1


@each(
    ("scenario", "stock"),
    [
        ("exact", "fp32"),
        ("none", "fp32"),
        ("predivided", "fp32"),
        ("exact_groups", "fp32"),
        ("exact_sum", "fp32_sum"),
        ("exact_two_passes", "fp32_two_passes"),
    ],
)
def test_bucket_size_one_trains_like_fp32(outcome: Outcome, scenario: str, stock: str) -> None:
    np.testing.assert_allclose(weights(outcome, scenario), weights(outcome, stock), rtol=2e-5, atol=2e-6)


def test_three_bits_stay_near_fp32_but_are_not_it(outcome: Outcome) -> None:
    start_to_end = np.abs(weights(outcome, "fp32")).max()
    difference = np.abs(weights(outcome, "alq") - weights(outcome, "fp32")).max()
    assert 0 < difference < 0.2 * start_to_end


def test_the_same_run_gives_the_same_weights(outcome: Outcome) -> None:
    # Every gradient is compressed here: Horovod's own allreduce of small ones may add in another order each time.
    assert outcome[0]["all_compressed"]["digest"] == outcome[0]["all_compressed_again"]["digest"]


def test_the_numpy_codec_trains_to_the_same_weights_as_the_native_one(outcome: Outcome) -> None:
    assert outcome[0]["native_codec"]["digest"] == outcome[0]["reference_codec"]["digest"]


def test_the_order_of_hooks_changes_no_bit_of_what_is_exchanged(outcome: Outcome) -> None:
    # Summation order inside the loss differs, so gradients differ by rounding before they are exchanged.
    np.testing.assert_allclose(weights(outcome, "shuffled"), weights(outcome, "alq"), atol=0.05)


def test_levels_are_fitted_on_schedule(outcome: Outcome) -> None:
    for rank in outcome:
        metrics = rank["alq"]["metrics"]
        assert [entry["step"] for entry in metrics["adaptations"]] == [0, 3]
        assert metrics["levels_version"] == sum(entry["accepted"] for entry in metrics["adaptations"]) >= 1
        assert metrics["levels"] == outcome[0]["alq"]["metrics"]["levels"]
        assert metrics["step"] == 6


def test_collectives_keep_their_promises_over_horovod_and_mpi(outcome: Outcome) -> None:
    for rank in outcome:
        assert rank["horovod_collectives"] is True
        assert rank["mpi_collectives"] in (True, "Horovod was not started with MPI")
    assert len({str(rank["mpi_collectives"]) for rank in outcome}) == 1


def test_the_users_own_allreduces_stay_exact(outcome: Outcome) -> None:
    assert all(rank["own_allreduces"] is True for rank in outcome)


def test_sparse_gradients_pass_through_exactly(outcome: Outcome) -> None:
    assert all(rank["sparse"] == outcome[0]["sparse"] for rank in outcome)
    touched = set(range(len(outcome))) | {7}
    untouched = [row for row in range(10) if row not in touched]
    assert len({outcome[0]["sparse"][row] for row in untouched}) == len(untouched)
