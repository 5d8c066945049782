"""What rotated rounding promises for every input: no bias where stochastic, errors that fall as 1/n over ranks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from alq_hvd.codec.base import Codec
from alq_hvd.codec.keys import stream_key
from alq_hvd.codec.measurement import fit
from alq_hvd.codec.native import NativeCodec
from alq_hvd.codec.reference import ReferenceCodec
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.methods import method
from alq_hvd.quantiser.policies.lloyd_max import lloyd_max
from alq_hvd.quantiser.record import RecordLayout, Stamp
from tests.support.cases import each
from tests.support.real_gradient import real_gradient

NATIVE, REFERENCE = NativeCodec(), ReferenceCodec()
SIZE = 512


def hard_inputs() -> Iterator[tuple[str, np.ndarray]]:
    """Yield buckets far from normal; in the last one the bucket is short."""
    for name, large in (("one-hot", [1.0]), ("two-hot", [1.0, 1.0]), ("uneven two-hot", [1.0, -0.5])):
        values = np.zeros(SIZE, dtype=np.float32)
        values[7 : 7 + 100 * len(large) : 100] = large
        yield name, values
    generator = np.random.default_rng(0)
    yield "constant", np.full(SIZE, 0.25, dtype=np.float32)
    yield "signs", generator.choice([-1, 1], SIZE).astype(np.float32)
    huge = generator.standard_normal(SIZE).astype(np.float32)
    huge[300] = 1e4
    yield "huge", huge
    yield "tail", generator.standard_t(3, 200).astype(np.float32)


INPUTS = dict(hard_inputs())


def draw(
    codec: Codec, values: np.ndarray, config: QuantiserConfig, levels: Levels, step: int, rank: int = 0
) -> np.ndarray:
    layout, stamp = RecordLayout(values.size, config), Stamp(levels.digest, step, rank)
    key = stream_key(seed=1, step=step, rank=rank, group=0, shot=0)
    record = codec.encode(values, layout, levels, key, stamp)
    return codec.decode_sum([record], layout, levels, [stamp], 1.0).astype(np.float64)


@each("name", INPUTS)
@each("norm", ["l2", "linf"])
@each("bits", [1, 3])
def test_stochastic_rounding_of_rotated_coordinates_is_unbiased(name: str, norm: str, bits: int) -> None:
    """The mean of N draws is off by a Nth of the error of one, not more: the chance of 1.35 times that is tiny.

    |mean error|^2 over 512 coordinates has mean E|error|^2 / N; a bias of a tenth of the error's length would make it
    21 times as large. The steps of training move the signs, so both kinds of randomness are averaged over.
    """
    draws, values = 2000, INPUTS[name]
    config, levels = QuantiserConfig(bits, SIZE, norm, rotate=True), Levels(np.linspace(-1, 1, 2**bits))
    total, error = np.zeros(values.size), 0.0
    for step in range(draws):
        off = draw(NATIVE, values, config, levels, step) - values
        total, error = total + off, error + off @ off
    assert total @ total / draws <= 1.35 * error / draws + 1e-9 * draws * float(values @ values)


@pytest.mark.parametrize("signs", range(3))
def test_rounding_is_unbiased_given_the_signs(signs: int) -> None:
    """Every coordinate, at one step: what ranks that share their signs rely on."""
    values, levels, draws = INPUTS["uneven two-hot"], Levels(np.linspace(-1, 1, 8)), 1500
    config = QuantiserConfig(3, SIZE, "linf", rotate=True)
    errors = np.stack([draw(NATIVE, values, config, levels, signs, rank) - values for rank in range(draws)])
    spread = errors.std(axis=0) / np.sqrt(draws) + 1e-7
    assert (np.abs(errors.mean(axis=0)) <= 6 * spread).all()


@each("name", ["two-hot", "uneven two-hot", "constant", "huge", "tail"])
@each("bits", [2, 3])
def test_what_remains_of_the_bias_of_rounding_to_the_nearest_is_a_hundredth_of_its_error(name: str, bits: int) -> None:
    """With one round of signs the whole error of an uneven two-hot bucket would be bias (docs/decisions/0010)."""
    draws, values = 1000, INPUTS[name]
    config = QuantiserConfig(bits, SIZE, "l2", rotate=True, rounding="nearest")
    total, error = np.zeros(values.size), 0.0
    for step in range(draws):
        off = draw(NATIVE, values, config, lloyd_max(bits), step) - values
        total, error = total + off, error + off @ off
    biased = (total @ total / draws**2 - error / draws**2) / (error / draws)
    assert biased <= 0.01
    assert error / draws / float(values @ values) <= {2: 0.14, 3: 0.038}[bits]


@each("name", ["eden", "optimal"])
@each("ranks", [4, 32])
def test_errors_fall_with_the_number_of_ranks_where_all_gradients_are_equal(name: str, ranks: int) -> None:
    values = real_gradient()[:8192].copy()
    chosen = method(name, bits=3, rotate=True)
    config = chosen.quantiser(3, 8192)
    levels = fit(values, chosen, config).levels
    single = alone = 0.0
    for step in range(8):
        draws = [draw(NATIVE, values, config, levels, step, rank) - values for rank in range(ranks)]
        single += float(np.mean([off @ off for off in draws]))
        mean = np.mean(draws, axis=0)
        alone += float(mean @ mean)
    assert ranks * alone / single == pytest.approx(1, abs=0.12)


magnitudes = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)


@given(
    arrays.arrays(np.float32, st.integers(0, 300), elements=magnitudes),
    st.integers(1, 8),
    st.integers(1, 400),
    st.sampled_from(["l2", "linf", "nearest"]),
    st.sampled_from([None, 1.0, 2.5]),
    st.integers(0, 2**31),
)
@settings(max_examples=200, deadline=None)
def test_native_equals_reference(  # type: ignore[no-untyped-def]
    values, bits: int, bucket_size: int, kind: str, clip: float | None, first_element: int
) -> None:
    rounding = "nearest" if kind == "nearest" else "stochastic"
    norm = "l2" if kind == "nearest" else kind
    config = QuantiserConfig(bits, bucket_size, norm, clip, rotate=True, rounding=rounding)  # type: ignore[arg-type]
    levels = lloyd_max(bits)
    layout, stamp = RecordLayout(values.size, config), Stamp(levels.digest, 0, 0)
    key = stream_key(seed=1, step=0, rank=0, group=0, shot=0).at(first_element)
    records = [codec.encode(values, layout, levels, key, stamp) for codec in (REFERENCE, NATIVE)]
    assert np.array_equal(*records)
    decoded = [codec.decode_sum(records, layout, levels, [stamp] * 2, 0.5) for codec in (REFERENCE, NATIVE)]
    assert decoded[0].tobytes() == decoded[1].tobytes()
