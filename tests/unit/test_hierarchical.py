"""Exact inside a node, two shots between nodes, exact again: on a grid of loopback ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from alq_hvd.codec.choice import choose_codec
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.communicator.nodes import group_by_node
from alq_hvd.engine.aggregator import Aggregator
from alq_hvd.engine.options import Options
from alq_hvd.engine.transport import PlainTransport
from alq_hvd.errors import ConfigurationError
from alq_hvd.exchange import traffic
from tests.support.cases import each
from tests.support.exchanging import aggregate, gradient
from tests.support.grid import grid


@dataclass
class Outcome:
    mean: np.ndarray
    aggregator: Aggregator
    inside: list[tuple[str, str, int]]
    across: list[tuple[str, str, int]]


def run(nodes: int, per_node: int, elements: int, **options: Any) -> list[Outcome]:
    """Average one gradient a rank over ``nodes`` times ``per_node`` ranks."""
    placed = grid(nodes, per_node)

    def program(ranks: LoopbackCommunicator) -> Outcome:
        own = placed(ranks)
        mean, aggregator = aggregate(own, elements, exchange="hierarchical", **options)  # type: ignore[arg-type]
        assert [name for _, name, _ in own.started if ".group" in name] == []  # nothing crosses all ranks at once
        return Outcome(mean, aggregator, own.nodes.inside.started, own.nodes.across.started)

    return LoopbackWorld(nodes * per_node).run(program)


def exact_mean(ranks: int, elements: int, step: int = 0) -> np.ndarray:
    return np.mean([gradient(rank, elements, step=step) for rank in range(ranks)], axis=0, dtype=np.float64)


GRIDS = [(2, 2), (3, 2), (2, 4), (1, 3), (4, 1)]


@each(("nodes", "per_node"), GRIDS)
def test_buckets_of_one_coordinate_give_the_exact_mean(nodes: int, per_node: int) -> None:
    for outcome in run(nodes, per_node, 997, bits=3, bucket_size=1):
        np.testing.assert_allclose(outcome.mean, exact_mean(nodes * per_node, 997), rtol=1e-5, atol=1e-6)


@each(("nodes", "per_node"), GRIDS)
@each("elements", [1, 64, 1000])
def test_every_rank_gets_the_same_bits(nodes: int, per_node: int, elements: int) -> None:
    first, *others = run(nodes, per_node, elements, bits=3, bucket_size=64, method="alq", steps=3, schedule=[0, 1])
    assert all(other.mean.tobytes() == first.mean.tobytes() for other in others)
    fingerprints = {outcome.aggregator.levels_fingerprint for outcome in [first, *others]}
    assert len(fingerprints) == 1


def error_of_second_step(method: str, bits: int, rotate: bool) -> float:
    """Return |error|^2 / |mean|^2 of two nodes of two ranks, once all ranks are seen to have the same bits."""
    options = {"method": method, "bits": bits, "rotate": rotate, "bucket_size": 512, "schedule": [0]}
    first, *others = run(2, 2, 5000, steps=2, **options)
    assert all(other.mean.tobytes() == first.mean.tobytes() for other in others)
    exact = exact_mean(4, 5000, step=1)
    return float(((first.mean - exact) ** 2).sum() / (exact**2).sum())


@pytest.mark.parametrize(("bits", "bound"), [(2, 0.35), (3, 0.09), (4, 0.025)])
def test_both_hops_may_be_rotated(bits: int, bound: float) -> None:
    """EDEN's variance (0.133, 0.036, 0.0096) of the nodes' sums and again of their sum."""
    assert error_of_second_step("eden", bits, rotate=True) < bound
    assert error_of_second_step("optimal", bits, rotate=True) < error_of_second_step("optimal", bits, rotate=False)


def test_the_mean_over_many_seeds_is_the_exact_mean() -> None:
    draws = 250
    drawn = np.stack([run(2, 2, 200, bits=3, bucket_size=64, seed=seed)[0].mean for seed in range(draws)])
    deviation = drawn.astype(np.float64).mean(axis=0) - exact_mean(4, 200)
    scores = deviation / (drawn.std(axis=0, ddof=1) / np.sqrt(draws))
    assert abs(float(scores.mean())) < 4 / np.sqrt(scores.size)
    assert float(np.square(scores).mean()) == pytest.approx(1, abs=5 * np.sqrt(2 / scores.size))


def test_only_the_nodes_sums_are_quantised_so_two_nodes_of_four_err_less_than_eight_ranks() -> None:
    """With noise as gradients a node's sum is quantised once where four ranks would each be: about the same error;
    with one node nothing is lost but by the second shot."""
    options = {"bits": (3, 8), "bucket_size": 64, "signal": 0.0}
    exact = np.mean([gradient(rank, 4096, signal=0.0) for rank in range(8)], axis=0, dtype=np.float64)

    def error(outcomes: list[Outcome]) -> float:
        return float(((outcomes[0].mean - exact) ** 2).sum() / (exact**2).sum())

    one_shot = error(run(1, 8, 4096, **{**options, "bits": (8, 8)}))
    quantised = error(run(2, 4, 4096, **options))
    assert one_shot < 1e-3 < quantised < 0.15


def test_bytes_between_nodes_are_those_of_the_plan() -> None:
    elements, bits = 2**18, (4, 8)
    for outcome in run(4, 2, elements, bits=bits, bucket_size=512):
        split = traffic.hierarchical(4, 2, bits, 512)
        across = sum(count for _, _, count in outcome.across)
        inside = sum(count for _, _, count in outcome.inside)
        assert split.between_nodes * elements < across < 1.03 * split.between_nodes * elements
        assert inside == pytest.approx(split.inside_node * elements, rel=0.01)
        assert outcome.aggregator.ledger.bytes_last_step == across + inside


def test_nodes_with_different_numbers_of_ranks_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"equally many.*ranks \[0, 1, 3\]; ranks \[2\].*two_shot"):
        group_by_node([7, 7, 2, 7])


def test_ranks_are_grouped_wherever_they_are() -> None:
    assert group_by_node([1, 0, 1, 0]) == [[0, 2], [1, 3]]


def test_a_world_that_knows_no_nodes_is_refused() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        aggregator = Aggregator(Options(method="alq", bits=3, exchange="hierarchical"), choose_codec("auto"))
        with pytest.raises(ConfigurationError, match="needs to know nodes, which LoopbackCommunicator does not tell"):
            aggregator.connect(PlainTransport(ranks), ranks)

    LoopbackWorld(2).run(program)
