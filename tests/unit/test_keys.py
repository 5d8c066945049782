"""Streams of random numbers: every rank, step, group and shot has its own, and each is uniform."""

from __future__ import annotations

import itertools

import numpy as np
from codec_cases import CODECS, uniform_levels
from scipy import stats

from alq_hvd.codec.keys import StreamKey, random_bits, stream_key
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.record import RecordLayout, Stamp
from tests.support.cases import each

COUNT = 1 << 20
BASE = {"seed": 7, "step": 1000, "rank": 0, "group": 0, "shot": 0}


def uniforms(key: StreamKey, count: int = COUNT) -> np.ndarray:
    index = np.arange(count, dtype=np.uint32) + np.uint32(key.first_element)
    return (random_bits(key, index) >> np.uint32(8)).astype(np.float64) * 2.0**-24


def neighbours() -> list[StreamKey]:
    return [stream_key(**BASE), *(stream_key(**{**BASE, name: BASE[name] + 1}) for name in BASE)]


def test_no_two_circumstances_share_a_key() -> None:
    """Pitfall 12: one stream a rank and step."""
    ranges = {"seed": (0, 1), "step": range(30), "rank": range(64), "group": range(5), "shot": (0, 1)}
    keys = {
        (key.first, key.second)
        for values in itertools.product(*ranges.values())
        for key in [stream_key(**dict(zip(ranges, values, strict=True)))]
    }
    assert len(keys) == 2 * 30 * 64 * 5 * 2


def test_a_resumed_run_continues_the_sequence() -> None:
    assert stream_key(**BASE) == stream_key(**BASE)
    assert stream_key(seed=1, step=2, rank=3, group=4, shot=0) == StreamKey(3194127724, 4056860600)


@each("key", neighbours())
def test_uniform(key: StreamKey) -> None:
    counts = np.bincount((uniforms(key) * 1024).astype(int), minlength=1024)
    assert stats.chisquare(counts).pvalue > 1e-4
    low_bits = np.bincount((uniforms(key) * 2**24).astype(int) % 256, minlength=256)
    assert stats.chisquare(low_bits).pvalue > 1e-4


def test_neighbouring_elements_are_independent() -> None:
    """Pairs (element i, element i + k) fill the unit square evenly; so rounding one says nothing of the next."""
    draws = (uniforms(stream_key(**BASE)) * 32).astype(int)
    for distance in (1, 2, 3, 32, 128, 512, 1024, 4096, 8192):
        pairs = np.bincount(draws[:-distance] * 32 + draws[distance:], minlength=1024)
        assert stats.chisquare(pairs).pvalue > 1e-5, distance


def test_streams_of_neighbours_are_uncorrelated() -> None:
    """Also when one is shifted against the other, which a counter-based hash with a weak key would not survive."""
    streams = [uniforms(key) - 0.5 for key in neighbours()]
    bound = 5.5 / 12 / np.sqrt(COUNT)  # 5.5 standard deviations of a mean of products of independent uniforms
    for one, other in itertools.combinations(streams, 2):
        for shift in (0, 1, 2, 3, 32, 1024):
            assert abs(np.mean(one[shift:] * other[: COUNT - shift])) < bound * 1.01
        assert len(np.intersect1d(one, other)) < COUNT * 2.0**-4 * 1.05  # equal by chance, never a shifted copy


def test_errors_of_ranks_average_out() -> None:
    """The mean of n ranks has 1/n of the variance of one: within 5 standard errors over 4096 coordinates."""
    codec, levels, config = CODECS["reference"], uniform_levels(2), QuantiserConfig(2, 4096, "linf")
    values = np.random.default_rng(0).uniform(-1, 1, 4096).astype(np.float32)
    layout, errors = RecordLayout(4096, config), []
    for rank in range(32):
        stamp = Stamp(levels.digest, 0, rank)
        record = codec.encode(values, layout, levels, stream_key(**{**BASE, "rank": rank}), stamp)
        errors.append(codec.decode_sum([record], layout, levels, [stamp], 1.0) - values.astype(np.float64))
    alone, together = np.mean(np.square(errors)), np.mean(np.mean(errors, axis=0) ** 2)
    assert abs(together / (alone / 32) - 1) < 5 * np.sqrt(2 / 4096)


@each("codec", CODECS.values())
def test_chunks_draw_what_the_whole_would(codec) -> None:  # type: ignore[no-untyped-def]
    config, levels, key = QuantiserConfig(3, 1024), uniform_levels(3), stream_key(**BASE)
    values = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    stamp = Stamp(levels.digest, 0, 0)
    whole = RecordLayout(4096, config)
    words = whole.words(codec.encode(values, whole, levels, key, stamp))
    half = RecordLayout(2048, config)
    second = half.words(codec.encode(values[2048:], half, levels, key.at(2048), stamp))
    assert np.array_equal(words[6:], second)
    assert not np.array_equal(half.words(codec.encode(values[2048:], half, levels, key, stamp)), second)
