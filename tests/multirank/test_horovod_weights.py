"""Quantised weights over real ranks and stock Horovod: equal bits everywhere, and the numbers of one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.launch import horovodrun
from tests.support.quantised_training import STEPS, batch, network, quantise

pytestmark = [pytest.mark.multirank, pytest.mark.timeout(300)]
CASES = ("laq", "optimizer", "fcgrad", "lstmfc")


@pytest.fixture(scope="module")
def outcomes() -> list[dict[str, Any]]:
    results, _ = horovodrun(2, "quantised_weights.py", timeout=250)
    return results


def test_ranks_end_with_equal_bits_whether_or_not_averages_are_waited_for_apart(outcomes: list[dict[str, Any]]) -> None:
    for case in CASES:
        for bits in (3, None):
            found = [rank[f"{case}, {bits}, {apart}"] for rank in outcomes for apart in (False, True)]
            assert len({each["digest"] for each in found}) == 1, (case, bits)
            assert len({each.get("phi") for each in found}) == 1, (case, bits)
        assert outcomes[0][f"{case}, 3, False"]["digest"] != outcomes[0][f"{case}, None, False"]["digest"]
    for bits in (3, None):  # both ways are one training
        assert outcomes[0][f"laq, {bits}, True"]["digest"] == outcomes[0][f"optimizer, {bits}, True"]["digest"]


def test_exact_gradients_give_the_training_of_one_process_with_all_batches(outcomes: list[dict[str, Any]]) -> None:
    for case in ("laq", "fcgrad", "lstmfc"):
        model = network()
        inner = [model[2].weight, model[4].weight]
        held = [*inner, *(each for each in model.parameters() if all(each is not one for one in inner))]
        start = torch.cat([parameter.detach().flatten() for parameter in held])
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        quantise(model, case, optimizer)
        for step in range(STEPS):
            inputs, labels = (torch.cat(parts) for parts in zip(batch(step, 0), batch(step, 1), strict=True))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        alone = torch.cat([parameter.detach().flatten() for parameter in held])
        together = torch.tensor(outcomes[0][f"{case}, None, False"]["weights"])
        # Adam divides by the gradient's size, so rounding may turn a step of a tiny gradient round: few, and small.
        off = (together - alone).abs()
        assert float(off.median()) < 1e-5 * float((alone - start).abs().median()), case
        assert float(off.max()) < 0.02, case


def test_a_rank_that_changed_a_weight_is_named_by_both(outcomes: list[dict[str, Any]]) -> None:
    for rank, outcome in enumerate(outcomes):
        assert "after step 4: rank 1 differs from the other ranks, first in 4" in outcome["mismatch"]
        assert f"(seen on rank {rank})" in outcome["mismatch"]
