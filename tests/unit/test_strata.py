"""Correlated rounding: each rank's uniform numbers are uniform, and those of all ranks are spread evenly."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from codec_cases import CODECS, encode, heavy_tailed, round_trip, uneven_levels, uniform_levels
from scipy import stats

from alq_hvd.codec.keys import INDEPENDENT, StreamKey, stream_key
from alq_hvd.codec.reference import ReferenceCodec
from alq_hvd.codec.strata import MOST_STRATA, _times, draws, draws_of, polynomial_of, strata, strata_for
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.engine.aggregator import Aggregator
from alq_hvd.engine.options import Options
from alq_hvd.engine.transport import PlainTransport
from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.config import QuantiserConfig
from tests.support.cases import each
from tests.support.grid import grid

ELEMENTS = 1 << 17
WORLDS = (2, 3, 4, 6, 7, 8, 13, 16, 32, 33)
"""Powers of two, primes, and numbers of ranks that are neither."""


def key_of(rank: int, ranks: int, step: int = 0) -> StreamKey:
    return stream_key(seed=3, step=step, rank=rank, group=1, shot=0, strata=strata_for(ranks))


def dealt(ranks: Sequence[int], of: int, elements: int = ELEMENTS, step: int = 0) -> np.ndarray:
    """Return uint32[len(ranks), elements]: the stratum of each of these ranks of so many, at each element."""
    index = np.arange(elements, dtype=np.uint32) + np.uint32(5000)
    return np.stack([strata(key_of(rank, of, step).strata, index) for rank in ranks])


def even(counts: np.ndarray) -> bool:
    return bool(stats.chisquare(counts.ravel()).pvalue > 1e-5)


def test_strata_are_the_least_prime_or_power_of_two() -> None:
    expected = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 7, 8: 8, 9: 11, 14: 16, 15: 16, 16: 16, 24: 29, 31: 31, 32: 32, 33: 37,
                63: 64, 256: 256, 257: 257, 65_000: 65_003, 2**16: 2**16, 2**16 + 1: 1}  # fmt: skip
    assert {ranks: strata_for(ranks) for ranks in expected} == expected
    assert all(2**23 < draws_of(strata_for(ranks)) <= 2**24 for ranks in expected)


def test_one_rank_alone_draws_from_all_of_it() -> None:
    assert key_of(0, 1).strata == INDEPENDENT
    assert stream_key(seed=3, step=0, rank=9, group=1, shot=0).strata == INDEPENDENT


def test_fields_have_no_divisors_of_zero() -> None:
    """A polynomial that had a factor would have one of half its degree, and multiples of that would be zero."""
    for bits in range(1, 17):
        size = 2**bits
        factors = np.arange(1, size, dtype=np.uint32)
        assert polynomial_of(size) >> bits == 1
        for place in range(1, min(size, 2 ** (bits // 2 + 1))):
            assert _times(factors, place, size, polynomial_of(size)).all(), (bits, place)
    assert MOST_STRATA == 2**16


def test_multiplication_in_fields() -> None:
    for prime in (3, 31, 65_521):
        factors = np.arange(1, prime, dtype=np.uint32)
        for place in (0, 1, 2, prime // 3, prime - 1):
            product = factors.astype(np.uint64) * place % prime
            assert np.array_equal(_times(factors, place, prime, 0), product)
    assert _times(np.array([0x53], np.uint32), 0xCA, 256, 0x11B)[0] == 1  # inverses in the field of AES


@each("ranks", WORLDS)
def test_each_rank_is_uniform_and_no_two_share_a_stratum(ranks: int) -> None:
    count, some = strata_for(ranks), sorted({0, 1, ranks // 2, ranks - 1})
    found = dealt(range(ranks), ranks, 4096)
    assert found.max() < count
    assert all(len(set(column)) == ranks for column in found.T.tolist())
    for rank in some:
        key = key_of(rank, ranks)
        uniform = draws(key, ELEMENTS).astype(np.float64) / draws_of(count)
        assert even(np.bincount((uniform * 997).astype(int), minlength=997)), rank
        assert even(np.bincount(draws(key, ELEMENTS) % 64, minlength=64)), rank


@each("ranks", WORLDS)
def test_two_ranks_take_every_pair_of_strata_equally_often(ranks: int) -> None:
    """The variance of a mean depends on pairs alone: so it is that of true random permutations.

    1024 permutations repeat, shifted again, so pairs are counted over steps, one tile of each.
    """
    count, pairs = strata_for(ranks), {(0, 1), (0, ranks - 1), (ranks // 2, ranks - 1)}
    for one, other in (pair for pair in pairs if pair[0] != pair[1]):
        tables = np.zeros((count, count))
        for step in range(60):
            a, b = dealt((one, other), ranks, 1024, step)
            np.add.at(tables, (a, b), 1)
        assert not np.diag(tables).any()
        assert even(tables[~np.eye(count, dtype=bool)]), (one, other)


@pytest.mark.parametrize("ranks", [2, 7, 16])
def test_elements_are_independent_of_each_other(ranks: int) -> None:
    """Also those that take the same permutation, shifted again: no errors of two elements are correlated.

    A step has 1024 permutations, and shifts that far from each other are few: both are counted over steps.
    """
    count, near, far = strata_for(ranks), (1, 2, 16, 32), (1024, 5 * 1024)
    tables = {(distance, other): np.zeros(count**2) for distance in near + far for other in (0, 1)}
    for step in range(2000):
        both = dealt((0, ranks - 1), ranks, 6 * 1024, step).astype(np.int64)
        for (distance, other), table in tables.items():
            places = slice(7, 8) if distance in far else slice(0, 64)
            after = both[other, places.start + distance : places.stop + distance]
            np.add.at(table, both[0, places] * count + after, 1)
    for place, table in tables.items():
        assert even(table), place


def test_what_ranks_draw_inside_their_strata_is_independent() -> None:
    inside = [(draws(key_of(rank, 8), ELEMENTS) % 2**21) / 2**21 - 0.5 for rank in range(8)]
    for one, other in itertools.combinations(inside, 2):
        assert abs(np.mean(one * other)) < 5.5 / 12 / np.sqrt(ELEMENTS)


@pytest.mark.parametrize("nodes", [1, 2])
def test_strata_are_those_of_the_ranks_that_take_part(nodes: int) -> None:
    """Of the nodes in a hierarchical exchange; of no rank in the second shot, where each encodes its own sum."""
    seen: set[tuple[int, int, int, int]] = set()

    def program(ranks: LoopbackCommunicator) -> None:
        own: Any = placed(ranks) if nodes > 1 else ranks
        exchange = "hierarchical" if nodes > 1 else "two_shot"
        aggregator = Aggregator(Options(method="qsgdinf", bits=4, bucket_size=64, exchange=exchange), codec)
        aggregator.connect(PlainTransport(own), own)
        aggregator.start(0, heavy_tailed(2000))
        aggregator.result(0, 1 / ranks.size)
        aggregator.end_step()

    class Watching(ReferenceCodec):
        def encode(self, values, layout, levels, key, stamp, residual=None):  # type: ignore[no-untyped-def]
            seen.add((key.strata.parts, key.strata.place, layout.quantiser.bits, len(values)))
            return super().encode(values, layout, levels, key, stamp, residual)

    codec, placed = Watching(), grid(nodes, 6 // nodes)
    LoopbackWorld(6).run(program)
    taking = nodes if nodes > 1 else 6
    assert {parts for parts, *_ in seen} == {1, strata_for(taking)}
    assert {place for parts, place, *_ in seen if parts > 1} == set(range(taking))


def test_what_has_no_strata() -> None:
    assert Options(method="qsgd", bits=3).correlates
    assert not Options(method="qsgd", bits=3, correlated=False).correlates
    assert not Options(method="eden", bits=3).correlates
    with pytest.raises(ConfigurationError, match="correlated: eden rounds to nearest and draws no random numbers"):
        Options(method="eden", bits=3, correlated=True)
    with pytest.raises(ConfigurationError, match="correlated: expected True, False or None, got 3"):
        Options(method="qsgd", bits=3, correlated=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("rotate", [False, True])
def test_every_codec_gives_the_same_bytes(rotate: bool) -> None:
    """Chunks that start anywhere, buckets that cross the period of the permutations, the end of the counter."""
    places = ((5000, 1000, 70_000), (3000, 1024, 0), (4097, 128, 5 * 1024), (100, 7, 2**32 - 50), (2500, 100, 3))
    for ranks, (elements, bucket_size, first) in itertools.product((1, *WORLDS, 257, 1000, 60_000), places):
        for bits in (3,) if ranks > 2 else (1, 2, 5, 8):
            config, key = QuantiserConfig(bits, bucket_size, "linf", rotate=rotate), key_of(ranks // 3, ranks).at(first)
            values, levels = heavy_tailed(elements), uneven_levels(2**bits)
            expected = encode(CODECS["reference"], values, config, levels, key)
            for name, codec in CODECS.items():
                found = encode(codec, values, config, levels, key)
                assert np.array_equal(found, expected), (name, ranks, elements, bits)


@each("codec", CODECS.values())
def test_chunks_draw_what_the_whole_would(codec) -> None:  # type: ignore[no-untyped-def]
    config, levels, key = QuantiserConfig(3, 100, "linf"), uniform_levels(3), key_of(2, 5).at(200)
    values = heavy_tailed(4000)
    whole = round_trip(codec, values, config, levels, key)
    for start, stop in ((0, 1300), (1300, 4000)):
        part = round_trip(codec, values[start:stop], config, levels, key.at(200 + start))
        assert np.array_equal(part, whole[start:stop])


def errors(values: np.ndarray, config: QuantiserConfig, steps: int) -> np.ndarray:
    """Return float64[steps, ranks, elements]: what each rank's record, of its row of ``values``, is off by."""
    codec, levels, ranks = CODECS["baseline"], uneven_levels(2**config.bits), len(values)
    off = np.empty((steps, *values.shape))
    for step, rank in itertools.product(range(steps), range(ranks)):
        key = key_of(rank, ranks, step)
        off[step, rank] = round_trip(codec, values[rank], config, levels, key).astype(np.float64) - values[rank]
    return off


@each("rotate", [False, True])
@each("ranks", [4, 6, 16])
def test_unbiased_on_each_rank_and_in_the_mean(ranks: int, rotate: bool) -> None:
    """Within 6 standard errors, and three of the rarest events, at every coordinate: gradients alike, and others."""
    own, steps = np.random.default_rng(0).standard_normal((ranks, 64)).astype(np.float32), 1000
    for values in (own, np.repeat(own[:1], ranks, axis=0)):
        off = errors(values, QuantiserConfig(2, 64, "linf", rotate=rotate), steps)
        for some in (off.mean(axis=1), *off.transpose(1, 0, 2)):
            bound = 6 * some.std(axis=0) / np.sqrt(steps) + 3 * 2 * np.abs(values).max() / steps
            assert (np.abs(some.mean(axis=0)) < bound).all()
        assert np.square(off.mean(axis=1)).mean() < 0.7 * np.square(off).mean() / ranks


def expected_error(fractions: np.ndarray, trials: int = 40_000) -> float:
    """Return E(mean of [u_i < p_i] - p_i)^2, summed over coordinates, under true random permutations.

    Args:
        fractions: float64[ranks, coordinates], p.
    """
    generator, total = np.random.default_rng(1), 0.0
    ranks = len(fractions)
    for p in fractions.T:
        order = generator.permuted(np.tile(np.arange(ranks), (trials, 1)), axis=1)
        uniform = (order + generator.random((trials, ranks))) / ranks
        total += float(((uniform < p).mean(axis=1) - p.mean()).__pow__(2).mean())
    return total


@pytest.mark.parametrize("ranks", [4, 8, 32])
def test_errors_of_the_mean_are_those_of_true_random_permutations(ranks: int) -> None:
    """Gradients that are alike, unrelated, and held by two ranks only, which a cyclic shift would round worse."""
    generator = np.random.default_rng(ranks)
    unrelated = generator.random((ranks, 6))
    alike = np.repeat(unrelated[:1], ranks, axis=0)
    of_two = np.where(np.arange(ranks)[:, None] < 2, 0.5, 0.0) * np.ones((ranks, 6))
    for name, fractions in (("alike", alike), ("unrelated", unrelated), ("of two ranks", of_two)):
        repeats = 20_000 // 6
        up = np.zeros((ranks, repeats, 6), dtype=bool)
        for rank in range(ranks):
            for step in range(repeats // 200 + 1):
                rows = slice(200 * step, min(200 * step + 200, repeats))
                drawn = draws(key_of(rank, ranks, step), 200 * 6).reshape(200, 6) / draws_of(ranks)
                up[rank, rows] = (drawn < fractions[rank])[: up[rank, rows].shape[0]]
        found = float(((up.mean(axis=0) - fractions.mean(axis=0)) ** 2).mean(axis=0).sum())
        assert found == pytest.approx(expected_error(fractions), rel=0.06), name
        independent = float((fractions * (1 - fractions)).sum() / ranks**2)
        assert found < independent * (1.0 if name == "of two ranks" else 0.7), name
