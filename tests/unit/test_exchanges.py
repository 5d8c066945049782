"""Every exchange gives every rank the same unbiased sum, and sends what its formula says."""

from __future__ import annotations

import numpy as np
import pytest

from alq_hvd.exchange import traffic
from alq_hvd.exchange.allgather import allgather
from alq_hvd.exchange.base import ExchangeFunction
from alq_hvd.exchange.chunks import deal
from alq_hvd.exchange.two_shot import two_shot
from tests.support.cases import each
from tests.support.exchanging import exchange, gradient

FUNCTIONS = {"allgather": allgather, "two_shot": two_shot}
exchanges = each("function", FUNCTIONS.values())


@each(("elements", "unit", "ranks"), [(1000, 64, 4), (64, 64, 3), (65, 64, 3), (0, 8, 2), (7, 1, 5)])
def test_chunks_are_whole_buckets_that_follow_each_other_and_differ_by_one_at_most(
    elements: int, unit: int, ranks: int
) -> None:
    chunks = deal(elements, unit, ranks)
    assert len(chunks) == ranks
    assert [chunks[0].start, *(chunk.stop for chunk in chunks)] == [*(chunk.start for chunk in chunks), elements]
    assert all(chunk.start % unit == 0 for chunk in chunks if chunk.elements)
    buckets = [-(-chunk.elements // unit) for chunk in chunks]
    assert max(buckets) - min(buckets) <= 1


@exchanges
@each("size", [2, 3, 5])
def test_buckets_of_one_coordinate_give_the_exact_sum(function: ExchangeFunction, size: int) -> None:
    gradients = [gradient(rank, 997) for rank in range(size)]
    for outcome in exchange(function, gradients, bits=(3, 3), bucket_size=1):
        np.testing.assert_allclose(outcome.result, np.sum(gradients, axis=0), rtol=1e-6, atol=1e-6)


@exchanges
@each("elements", [0, 1, 63, 64, 65, 200, 1000])
def test_every_rank_gets_the_same_bits_even_with_fewer_buckets_than_ranks(
    function: ExchangeFunction, elements: int
) -> None:
    first, *others = exchange(function, [gradient(rank, elements) for rank in range(5)])
    assert first.result.shape == (elements,)
    assert all(other.result.tobytes() == first.result.tobytes() for other in others)


@pytest.mark.parametrize("elements", [64, 150, 5000])
def test_the_first_shot_of_two_draws_and_adds_as_an_allgather_does(elements: int) -> None:
    gradients = [gradient(rank, elements) for rank in range(4)]
    expected = exchange(allgather, gradients)[0].result
    sums = np.full(elements, np.nan, dtype=np.float32)
    for outcome in exchange(two_shot, gradients):
        if 1 in outcome.seen:
            start, part = outcome.seen[1]
            sums[start : start + len(part)] = part
    assert sums.tobytes() == expected.tobytes()


@exchanges
def test_the_mean_over_many_seeds_is_the_exact_sum(function: ExchangeFunction) -> None:
    draws, gradients = 400, [gradient(rank, 300) for rank in range(3)]
    drawn = np.stack([exchange(function, gradients, bits=(3, 3), seed=seed)[0].result for seed in range(draws)])
    deviation = drawn.astype(np.float64).mean(axis=0) - np.sum(gradients, axis=0, dtype=np.float64)
    scores = deviation / (drawn.std(axis=0, ddof=1) / np.sqrt(draws))
    assert abs(float(scores.mean())) < 4 / np.sqrt(scores.size)
    assert float(np.square(scores).mean()) == pytest.approx(1, abs=5 * np.sqrt(2 / scores.size))
    assert float(np.abs(scores).max()) < 5


def test_the_second_shot_rounds_with_numbers_of_its_own() -> None:
    """With the first shot's numbers again, the errors of both would add up instead of being independent."""
    gradients = [np.full(64 * 2, 0.3, dtype=np.float32) for _ in range(2)]
    for values in gradients:
        values[::64] = 1.0
    errors = []
    for seed in range(300):
        outcomes = exchange(two_shot, gradients, bits=(2, 2), seed=seed)
        sums = np.concatenate([outcome.seen[1][1] for outcome in outcomes]).astype(np.float64)
        errors.append([sums - np.sum(gradients, axis=0), outcomes[0].result - sums])
    first, second = np.array(errors).transpose(1, 0, 2)[:, :, 1:64]
    correlation = float((first * second).mean() / np.sqrt((first**2).mean() * (second**2).mean()))
    assert abs(correlation) < 0.05


@exchanges
def test_nan_on_one_rank_poisons_its_bucket_everywhere_and_nothing_else(function: ExchangeFunction) -> None:
    gradients = [gradient(rank, 500) for rank in range(3)]
    gradients[1][200] = np.nan
    for outcome in exchange(function, gradients):
        assert np.flatnonzero(np.isnan(outcome.result)).tolist() == list(range(192, 256))


@each("size", [2, 4, 8])
@each("bits", [(4, 4), (3, 3), (4, 8)])
def test_bytes_sent_are_those_of_the_plan_but_for_headers_and_padding(size: int, bits: tuple[int, int]) -> None:
    elements, bucket_size = 2**18, 512
    gradients = [gradient(rank, elements) for rank in range(size)]
    for name, function in FUNCTIONS.items():
        predicted = getattr(traffic, name)(size, bits, bucket_size) * elements
        for outcome in exchange(function, gradients, bits=bits, bucket_size=bucket_size):
            assert predicted < outcome.bytes_sent < 1.03 * predicted


def test_empty_chunks_carry_no_byte() -> None:
    sent = [outcome.bytes_sent for outcome in exchange(two_shot, [gradient(rank, 64) for rank in range(4)])]
    record = 512  # one bucket of 64 codes, header and norm, padded
    last = [3 * record + record * (rank != 3) for rank in range(4)]  # the only bucket is the last rank's chunk
    assert sent == last
