"""What quantisation promises for every input: near, unbiased, and of the variance the formula gives."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from alq_hvd.codec.keys import stream_key
from alq_hvd.codec.native import NativeCodec
from alq_hvd.codec.reference import ReferenceCodec
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.record import RecordLayout, Stamp
from tests.support.cases import each

NATIVE, REFERENCE = NativeCodec(), ReferenceCodec()
DRAWS = 4096
Z = 6.0
"""Standard errors: two-sided chance 2e-9 a comparison, so that a test of thousands fails by chance once in 1e5 runs."""

magnitudes = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)
gradients = arrays.arrays(np.float32, st.integers(0, 300), elements=magnitudes)


@st.composite
def tables(draw: st.DrawFn, maximum_bits: int = 8) -> tuple[int, Levels]:
    """Draw a number of bits and levels from -1 to 1 that its codes can index."""
    bits = draw(st.integers(1, maximum_bits))
    inner = draw(st.sets(st.integers(-(2**19) + 1, 2**19 - 1), max_size=2**bits - 2))
    return bits, Levels(np.array([-1.0, *sorted(value / 2**19 for value in inner), 1.0]))


def round_trip(codec, values: np.ndarray, config: QuantiserConfig, levels: Levels, step: int = 0) -> np.ndarray:  # type: ignore[no-untyped-def]
    layout, stamp = RecordLayout(values.size, config), Stamp(levels.digest, step, 0)
    key = stream_key(seed=1, step=step, rank=0, group=0, shot=0)
    record = codec.encode(values, layout, levels, key, stamp)
    return codec.decode_sum([record], layout, levels, [stamp], 1.0)  # type: ignore[no-any-return]


@given(gradients, tables(), st.integers(1, 400), st.sampled_from(["l2", "linf"]), st.sampled_from([None, 1.0, 2.5]))
@settings(max_examples=300, deadline=None)
def test_native_equals_reference(values, table, bucket_size: int, norm: str, clip: float | None) -> None:  # type: ignore[no-untyped-def]
    bits, levels = table
    config = QuantiserConfig(bits, bucket_size, norm, clip)
    layout, stamp = RecordLayout(values.size, config), Stamp(levels.digest, 0, 0)
    key = stream_key(seed=1, step=0, rank=0, group=0, shot=0)
    records = [codec.encode(values, layout, levels, key, stamp) for codec in (REFERENCE, NATIVE)]
    assert np.array_equal(*records)
    decoded = [codec.decode_sum(records, layout, levels, [stamp] * 2, 0.5) for codec in (REFERENCE, NATIVE)]
    assert np.array_equal(*decoded)


@given(gradients, tables(), st.integers(1, 400), st.sampled_from(["l2", "linf"]))
@settings(max_examples=300, deadline=None)
def test_a_round_trip_stays_within_one_gap(values, table, bucket_size: int, norm: str) -> None:  # type: ignore[no-untyped-def]
    bits, levels = table
    decoded = round_trip(NATIVE, values, QuantiserConfig(bits, bucket_size, norm), levels).astype(np.float64)
    gap = np.diff(levels.values.astype(np.float64)).max()
    for start in range(0, values.size, bucket_size):
        bucket = values[start : start + bucket_size].astype(np.float64)
        scale = np.abs(bucket).max() if norm == "linf" else np.sqrt((bucket**2).sum())
        assert np.abs(decoded[start : start + bucket_size] - bucket).max() <= scale * (gap + 1e-6)


def bin_ends(normalised: np.ndarray, levels: Levels) -> tuple[np.ndarray, np.ndarray]:
    """Return the levels l_j <= r < l_{j+1} around each coordinate."""
    table = levels.values.astype(np.float64)
    lower = np.clip(np.searchsorted(table, normalised, side="right") - 1, 0, len(table) - 2)
    return table[lower], table[lower + 1]


@each("codec", [REFERENCE, NATIVE])
@each("bits", [1, 2, 3, 4, 8])
@each("norm", ["l2", "linf"])
def test_unbiased_and_of_the_variance_of_the_closed_form(codec, bits: int, norm: str) -> None:  # type: ignore[no-untyped-def]
    """Spec section 2: E[Q(v)] = v and E(Q(v) - v)^2 = S^2 (l_{j+1} - r)(r - l_j), coordinate by coordinate.

    A draw takes two values, so the spread of both means over DRAWS draws follows from the formula too.
    """
    generator = np.random.default_rng(bits)
    inner = np.sort(generator.uniform(-1, 1, 2**bits - 2))
    levels, config = Levels(np.concatenate([[-1], inner, [1]])), QuantiserConfig(bits, 256, norm)
    values = (generator.standard_t(3, 256) * 1e-3).astype(np.float32)
    scale = np.abs(values).max() if norm == "linf" else np.sqrt((values.astype(np.float64) ** 2).sum())
    draws = np.stack([round_trip(codec, values, config, levels, step) for step in range(DRAWS)]).astype(np.float64)
    below, above = bin_ends(values / scale, levels)
    down, up = values - scale * below, scale * above - values
    expected = down * up
    rounding = 1e-6 * scale
    assert (np.abs(draws.mean(0) - values) <= Z * np.sqrt(expected / DRAWS) + rounding).all()
    squares = np.mean((draws - values) ** 2, axis=0)
    fourth = (up**4 * down + down**4 * up) / (up + down)
    spread = np.sqrt(np.maximum(fourth - expected**2, 0) / DRAWS)
    often = DRAWS * np.minimum(up, down) > 30 * (up + down)  # else too few draws of the rarer value for a normal bound
    assert np.count_nonzero(often) > 100
    assert (np.abs(squares - expected) <= Z * spread + rounding * scale)[often].all()
    assert abs(squares.sum() - expected.sum()) <= Z * np.sqrt((spread**2).sum()) + rounding * scale


@given(st.integers(0, 2**32 - 1), st.floats(0, 1, exclude_max=True, width=32), tables(maximum_bits=4))
@settings(max_examples=60, deadline=None)
def test_the_chance_to_round_up_is_the_distance(seed: int, position: float, table) -> None:  # type: ignore[no-untyped-def]
    """Many equal coordinates of one bucket: the share of the upper level is binomial around (r - l_j) / gap."""
    _, levels = table
    config, count = QuantiserConfig(4, 2**14, "linf"), 2**14 - 1
    low, high = (float(value) for value in levels.values[:2])
    wanted = np.float32(low + position * (high - low))
    values = np.append(np.full(count, wanted), np.float32(1)).astype(np.float32)
    decoded = round_trip(NATIVE, values, config, levels, step=seed)[:count]
    inside = min(max((float(wanted) - low) / (high - low), 0.0), 1.0)
    if float(wanted) >= high:
        assert (decoded == levels.values[1]).all()
        return
    assert set(decoded.tolist()) <= {low, high}
    share = np.count_nonzero(decoded == np.float32(high)) / count
    assert abs(share - inside) <= Z * np.sqrt(inside * (1 - inside) / count) + 20 / count
