"""The rotation itself: lengths stay, it can be undone, its blocks and signs are those of the wire format."""

from __future__ import annotations

import numpy as np
from scipy import stats
from scipy.linalg import hadamard

from alq_hvd.codec.keys import stream_key
from alq_hvd.codec.rotation import butterflies, gain, rotate, rotate_back, rotate_values, rotate_values_back, signs
from alq_hvd.quantiser.config import QuantiserConfig
from tests.support.cases import each

KEY = stream_key(seed=1, step=2, rank=3, group=4, shot=0).own_signs
SIZES = (1, 2, 3, 4, 5, 31, 32, 33, 100, 512, 1000, 1024, 1025, 2047, 8192, 10_000)


def rows(size: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(size).standard_t(3, (count, size)).astype(np.float32)


@each("log2", range(11))
def test_butterflies_are_the_hadamard_matrix(log2: int) -> None:
    values = rows(1 << log2)
    expected = values.astype(np.float64) @ hadamard(1 << log2)
    butterflies(values)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_butterflies_add_in_the_order_of_the_wire_format() -> None:
    """Stages of distance 1, 2, 4: another order would lose another one of these ones."""
    values = np.array([[1e8, 1.0, -1e8, 1.0]], dtype=np.float32)
    butterflies(values)
    big = np.float32(1e8)  # 1e8 + 1 and 1e8 - 1 are 1e8 in float32; the stage of distance 2 then cancels them
    assert values.tolist() == [[big - big, big - big, 2 * big, 2 * big]]


@each("rounds", [1, 2])
@each("size", SIZES)
def test_lengths_and_angles_stay_and_the_way_back_is_exact(size: int, rounds: int) -> None:
    one, other = rows(size, 1), rows(size, 2)[1:]
    turned = [rotate(values, KEY, 7, rounds) for values in (one, other)]
    before = np.concatenate([one, other]).astype(np.float64)
    after = np.concatenate(turned).astype(np.float64)
    tolerance = 1e-6 * (before**2).sum(1).max()
    np.testing.assert_allclose(after @ after.T, gain(size, rounds) * (before @ before.T), rtol=0, atol=tolerance)
    back = rotate_back(turned[0], KEY, 7, rounds)
    assert np.abs(back - one).max() <= 1e-6 * np.sqrt(before[0] @ before[0])


@each("rounds", [1, 2])
@each("size", [1000, 1024, 1500, 8192])
def test_any_bucket_looks_normal_after_the_rounds_it_gets(size: int, rounds: int) -> None:
    """One round spreads a spike evenly over its block; two make even two spikes normal."""
    spike = np.zeros((1, size), dtype=np.float32)
    spike[0, [size // 3, size - 1]] = [1.0, 0.5]
    rotated = rotate(spike, KEY, 0, rounds)[0].astype(np.float64)
    deviation = np.sqrt(np.mean(rotated**2))
    assert np.abs(rotated).max() < 5.5 * deviation
    if rounds == 2:
        assert stats.kstest(rotated / deviation, "norm").pvalue > 1e-3


def test_the_last_block_overlaps_and_no_coordinate_is_added() -> None:
    values = np.zeros((1, 48), dtype=np.float32)
    values[0, 47] = 1
    rotated = rotate(values, KEY, 0, 1)
    assert rotated.shape == (1, 48)
    assert not rotated[0, :16].any() and len(set(np.abs(rotated[0, 16:]))) == 1  # last block: coordinates 16 to 47


def test_a_record_of_many_buckets_rotates_each_by_itself() -> None:
    config = QuantiserConfig(3, 100, rotate=True)
    values = rows(1050, 1)[0]
    rotated = rotate_values(values, config, KEY, 500)
    assert np.array_equal(rotated[300:400], rotate(values[None, 300:400], KEY, 800, 1)[0])
    assert np.array_equal(rotated[1000:], rotate(values[None, 1000:], KEY, 1500, 1)[0])
    np.testing.assert_allclose(rotate_values_back(rotated, config, KEY, 500), values, atol=1e-5)
    assert rotate_values(values[:0], config, KEY, 0).size == 0


def test_signs_are_even_and_independent_of_place_bucket_block_and_key() -> None:
    starts = (np.arange(64, dtype=np.uint32) * 8192).astype(np.uint32)
    other = stream_key(seed=1, step=2, rank=4, group=4, shot=0).own_signs
    patterns = np.stack([signs(KEY, starts, 8192, turn) for turn in range(4)] + [signs(other, starts, 8192, 0)])
    flat = patterns.reshape(5, -1) * 2.0 - 1
    bound = 5 / np.sqrt(flat.shape[1])
    assert np.abs(flat.mean(axis=1)).max() < bound
    assert np.abs(np.corrcoef(flat) - np.eye(5)).max() < bound
    for distance in (1, 31, 32, 33, 512, 1024, 8192, 16_384):
        assert abs(np.mean(flat[0, distance:] * flat[0, :-distance])) < bound * 1.1, distance


def test_no_two_ranks_steps_groups_or_shots_share_own_signs_and_all_ranks_share_the_shared() -> None:
    base = {"seed": 7, "step": 1000, "rank": 0, "group": 0, "shot": 0}
    keys = [stream_key(**base), *(stream_key(**{**base, name: base[name] + 1}) for name in base)]
    assert len({key.own_signs for key in keys}) == len(keys)
    assert len({key.shared_signs for key in keys}) == len(keys) - 1
    assert stream_key(**base).shared_signs == stream_key(**{**base, "rank": 5}).shared_signs
    words = {(key.first, key.second) for key in keys}
    assert not words & {tuple(key.own_signs) for key in keys} and not words & {tuple(key.shared_signs) for key in keys}
    assert stream_key(**base).at(9).own_signs == stream_key(**base).own_signs
