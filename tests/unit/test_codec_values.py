"""What comes back: exact where it can be, NaN where it must be, near everywhere else (spec section 10)."""

from __future__ import annotations

import itertools

import numpy as np
from codec_cases import CODECS, encode, heavy_tailed, round_trip, uneven_levels, uniform_levels

from alq_hvd.codec.base import Codec
from alq_hvd.quantiser.config import NORMS, QuantiserConfig
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.record import RecordLayout
from tests.support.cases import each

every_codec = each("codec", CODECS.values())
TINY = float(np.finfo(np.float32).tiny)


@every_codec
def test_lattice_points_are_exact(codec: Codec) -> None:
    """A coordinate that equals a level is never moved, whatever the random numbers."""
    for bits in range(1, 9):
        levels = uneven_levels(2**bits, seed=bits)
        values = np.random.default_rng(0).choice(levels.values, 5000).astype(np.float32)
        values[::512] = 1  # the max norm of every bucket
        for scale in (1.0, 2.0**-40, 2.0**40):
            scaled = values * np.float32(scale)
            back = round_trip(codec, scaled, QuantiserConfig(bits, 512, "linf"), levels)
            assert np.array_equal(back, scaled), (bits, scale)


@every_codec
def test_bucket_size_one_is_lossless(codec: Codec) -> None:
    """Pitfall 6: one coordinate is +1 or -1 times its norm, so training equals fp32 bit for bit."""
    values = heavy_tailed(3000) * np.float32(10) ** np.random.default_rng(1).integers(-25, 25, 3000).astype(np.float32)
    for norm, bits in itertools.product(NORMS, range(1, 9)):
        back = round_trip(codec, values, QuantiserConfig(bits, 1, norm), uniform_levels(bits))
        assert np.array_equal(back, values), (norm, bits)


@every_codec
@each("norm", ["l2", "linf"])
def test_one_hot_buckets_are_exact_where_zero_is_a_level(codec: Codec, norm: str) -> None:
    """Pitfall 11: nothing is added to the norm, so a lone coordinate of 1e-6 keeps its size."""
    values = np.zeros(1024, dtype=np.float32)
    values[::64] = 1e-6
    assert np.array_equal(round_trip(codec, values, QuantiserConfig(2, 64, norm), Levels([-1, 0, 1])), values)


@every_codec
def test_every_length_keeps_every_bucket(codec: Codec) -> None:
    """Pitfall 11: the last bucket, short or full, is sent like the others."""
    for elements in (0, 1, 511, 512, 513, 2048):
        values = np.where(np.arange(elements) % 2, 3.0, -3.0).astype(np.float32)
        back = round_trip(codec, values, QuantiserConfig(1, 512, "linf"), Levels([-1, 1]))
        assert np.array_equal(back, values), elements


@every_codec
@each("norm", ["l2", "linf"])
def test_zero_buckets_stay_zero(codec: Codec, norm: str) -> None:
    """Pitfall 1: even under a table without a zero level."""
    values = heavy_tailed(2048)
    values[512:1024] = 0
    values[600] = -0.0
    decoded = round_trip(codec, values, QuantiserConfig(3, 512, norm), uniform_levels(3))
    assert not decoded[512:1024].any() and decoded[:512].all() and decoded[1024:].all()


@every_codec
def test_a_poisoned_bucket_is_nan_and_nothing_else_is_touched(codec: Codec) -> None:
    """Pitfall 2: a gradient scaler must see it, and only where it is."""
    whole, levels = heavy_tailed(2000), uniform_levels(3)
    for norm, clip in itertools.product(NORMS, (None, 2.5)):
        config = QuantiserConfig(3, 512, norm, clip)
        clean = round_trip(codec, whole, config, levels)
        for poison, place in itertools.product((np.nan, np.inf, -np.inf), (512, 700, 1023)):
            values, case = whole.copy(), (norm, clip, poison, place)
            values[place] = poison
            decoded = round_trip(codec, values, config, levels)
            assert np.isnan(decoded[512:1024]).all(), case
            assert np.array_equal(decoded[:512], clean[:512]), case
            assert np.array_equal(decoded[1024:], clean[1024:]), case


@every_codec
def test_a_bucket_whose_length_overflows_is_nan(codec: Codec) -> None:
    values = np.full(512, 3e38, dtype=np.float32)
    assert np.isnan(round_trip(codec, values, QuantiserConfig(3, 512, "l2"), uniform_levels(3))).all()
    assert np.array_equal(round_trip(codec, values, QuantiserConfig(3, 512, "linf"), uniform_levels(3)), values)


@every_codec
@each("norm", ["l2", "linf"])
def test_norms_below_the_smallest_normal_number_are_zero(codec: Codec, norm: str) -> None:
    """Pitfall 4: a subnormal norm has few bits left, and devices may flush it."""
    config, levels = QuantiserConfig(2, 1, norm), Levels([-1, 0, 1])
    values = [TINY / 2, -TINY * 0.999, TINY, -TINY * 1.5, 1e-45]
    expected = np.array([0, 0, TINY, -TINY * 1.5, 0], dtype=np.float32)
    assert np.array_equal(round_trip(codec, values, config, levels), expected)


@every_codec
def test_tiny_and_huge_gradients_survive(codec: Codec) -> None:
    """Pitfall 3: squares of 1e-30 underflow and of 1e30 overflow in float32; the norm is summed in float64."""
    for scale, norm in itertools.product((1e-30, 1e30), NORMS):
        values, config, levels = heavy_tailed(4096, scale=scale), QuantiserConfig(8, 512, norm), uniform_levels(8)
        decoded = round_trip(codec, values, config, levels).reshape(8, 512)
        rows = values.reshape(8, 512).astype(np.float64)
        norms = np.abs(rows).max(1) if norm == "linf" else np.sqrt((rows**2).sum(1))
        assert (np.abs(decoded - rows).max(1) <= norms * 2 / 255 * 1.001).all(), (scale, norm)


@every_codec
def test_norms_are_what_they_are_called(codec: Codec) -> None:
    values = heavy_tailed(5000)
    padded = np.append(values.astype(np.float64), np.zeros(120)).reshape(10, 512)
    expected = {"l2": np.sqrt((padded**2).sum(1)), "linf": np.abs(padded).max(1)}
    for norm, want in expected.items():
        layout = RecordLayout(5000, QuantiserConfig(3, 512, norm))
        got = layout.norms(encode(codec, values, layout.quantiser, uniform_levels(3)))
        np.testing.assert_allclose(got, want, rtol=2e-7)


@every_codec
def test_coordinates_beyond_the_ends_are_clamped(codec: Codec) -> None:
    """Pitfall 5, and tables whose ends are inside (-1, 1)."""
    values = np.array([-1.0, -0.6, 0.5, 1.0] * 16, dtype=np.float32)
    decoded = round_trip(codec, values, QuantiserConfig(1, 64, "linf"), Levels([-0.5, 0.5]))
    assert decoded.tolist() == [-0.5, -0.5, 0.5, 0.5] * 16


@every_codec
def test_clipping_shrinks_the_norm_before_it_is_taken(codec: Codec) -> None:
    """TernGrad's order: an outlier of 100 among +-1 must not be the scale."""
    values = np.where(np.arange(1024) % 2, 1.0, -1.0).astype(np.float32)
    values[5] = 100
    deviation = np.std(values.astype(np.float64))
    layout = RecordLayout(1024, QuantiserConfig(2, 1024, "linf", clip=2.5))
    norm = layout.norms(encode(codec, values, layout.quantiser, Levels([-1, 0, 1])))[0]
    assert abs(norm - 2.5 * deviation) < 1e-5 * norm
    constant = np.full(1024, 3.0, dtype=np.float32)  # no spread: stays as it is
    assert np.array_equal(round_trip(codec, constant, layout.quantiser, Levels([-1, 0, 1])), constant)


@every_codec
def test_zeros_come_back_as_noise_from_tables_without_zero(codec: Codec) -> None:
    """Pitfall 13: the reason for odd tables. An even table returns +-l_1 * S, an odd one returns zeros."""
    values = np.zeros(512, dtype=np.float32)
    values[0] = 1
    config = QuantiserConfig(2, 512, "linf")
    noisy = round_trip(codec, values, config, Levels([-1, -0.25, 0.25, 1]))
    assert set(np.abs(noisy[1:])) == {0.25} and abs(noisy[1:].mean()) < 5 * 0.25 / np.sqrt(511)
    assert np.array_equal(round_trip(codec, values, config, Levels([-1, -0.25, 0, 1])), values)
