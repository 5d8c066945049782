"""The emulated accumulator: exact to the bit, alike in NumPy, torch and C++, and as noisy as predicted."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch

from alq_hvd import backends
from alq_hvd.accumulation import emulated, emulated_torch, rounding_nmse, vrr
from alq_hvd.accumulation.adder import Adder
from alq_hvd.accumulation.rounding import MODES, Mode, rounded
from alq_hvd.errors import AlqError, ConfigurationError, UnsupportedTensor

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 3.4028235e38, 1e-45, -1e-40, 1.5, 2.5, 3.5, 0.1]


def exactly(value: float, mantissa: int, mode: Mode) -> float:
    """Round by rational arithmetic: the nearest multiple of the last place, ties to even, or the one towards zero."""
    exponent = int(np.floor(np.log2(abs(value)))) if value else 0
    unit = Fraction(2) ** (exponent - mantissa)
    steps = abs(Fraction(value)) / unit
    return float(unit * (round(steps) if mode == "nearest" else int(steps))) * (-1 if value < 0 else 1)


def test_rounding_against_rational_numbers() -> None:
    scales = 2.0 ** np.linspace(-120, 120, 300).round()
    values = (np.random.default_rng(0).standard_normal(300) * scales).astype(np.float32)
    halves = np.arange(1, 40, dtype=np.float32) / 8  # many ties
    for mantissa in (1, 2, 3, 7, 10, 22, 23):
        for mode in MODES:
            for value, found in zip([*values, *halves], rounded(np.r_[values, halves], mantissa, mode), strict=True):
                assert found == exactly(float(value), mantissa, mode), (mantissa, mode, value)


def test_rounding_is_that_of_the_types_of_torch() -> None:
    """bfloat16 has the exponents of float32, so all of them; torch rounds to nearest."""
    values = np.r_[np.random.default_rng(1).standard_normal(1000), SPECIAL].astype(np.float32)
    theirs = torch.from_numpy(values).bfloat16().float()
    assert torch.equal(torch.from_numpy(rounded(values, 7)).nan_to_num(7), theirs.nan_to_num(7))
    assert np.array_equal(rounded(values[:1000], 10), values[:1000].astype(np.float16).astype(np.float32))


def test_what_is_no_number_stays_none() -> None:
    words = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000, 0xFF800001], dtype=np.uint32)
    for mantissa in (1, 7, 23):
        for mode in MODES:
            case = (mantissa, mode)
            assert np.isnan(rounded(words.view(np.float32), mantissa, mode)).all(), case
            assert emulated_torch.rounded(torch.from_numpy(words.view(np.float32)), mantissa, mode).isnan().all(), case
            assert rounded(np.array([np.inf, -np.inf], np.float32), mantissa, mode).tolist() == [np.inf, -np.inf], case


ADDERS = [
    Adder(mantissa, mode, chunk, term)
    for mantissa in (1, 4, 7, 23)
    for mode in MODES
    for chunk in (None, 5, 64)
    for term in (None, 3)
]


def test_torch_rounds_and_adds_as_numpy_does() -> None:
    terms = np.random.default_rng(2).standard_normal((70, 4, 3)).astype(np.float32)
    for adder in ADDERS:
        ours = emulated.add_up(terms, adder)
        assert np.array_equal(emulated_torch.add_up(torch.from_numpy(terms), adder).numpy(), ours), adder


def products() -> dict[str, Callable[[torch.Tensor, torch.Tensor, Adder], torch.Tensor]]:
    """Return the ways to multiply; the compiled one where the extension was built."""
    found = {"torch's loops": emulated_torch.loops}
    if backends.available(emulated_torch.NATIVE):
        found["compiled"] = emulated_torch.matmul
    return found


def test_every_matrix_product_has_the_same_bits() -> None:
    generator = np.random.default_rng(3)
    for m, k, n in ((1, 1, 1), (3, 70, 5), (9, 33, 17), (4, 64, 32), (0, 3, 2), (2, 0, 3), (2, 3, 0)):
        left, right = (generator.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n)))
        for adder in ADDERS:
            ours = emulated.matmul(left, right, adder)
            assert ours.shape == (m, n)
            for name, product in products().items():
                if name == "compiled" and adder.is_float32 and adder.chunk is None:
                    continue  # which is left to torch
                theirs = product(torch.from_numpy(left), torch.from_numpy(right), adder).numpy()
                assert np.array_equal(theirs, ours), (name, (m, k, n), adder)


def test_operands_that_are_views_and_one_bad_number_among_good_ones() -> None:
    left, right = torch.randn(6, 20), torch.randn(9, 20)
    left[2, 3], right[4, 5], left[5, 0] = torch.nan, torch.inf, 3e38
    for name, product in products().items():
        found = product(left, right.t(), Adder(7))
        assert found[2].isnan().all(), name
        assert not found[[0, 1, 3, 4]][:, [0, 1, 2, 3, 5, 6, 7, 8]].isnan().any(), name
        assert not found[[0, 1, 3, 4], 4].isfinite().any(), name


def test_float32_is_left_to_torch() -> None:
    left, right = torch.randn(30, 200), torch.randn(200, 10)
    assert torch.equal(emulated_torch.matmul(left, right, Adder()), left @ right)


def test_equal_terms_stop_to_count() -> None:
    ones = np.ones((4096, 1), np.float32)
    for mode in MODES:
        for mantissa in (3, 7, 10):
            assert emulated.add_up(ones, Adder(mantissa, mode))[0] == 2 ** (mantissa + 1), (mantissa, mode)
        assert emulated.add_up(ones, Adder(7, mode, chunk=64))[0] == 4096, mode


@pytest.fixture(scope="module")
def terms() -> np.ndarray:
    """Return float32[16384, 1000], independent, of 5 mantissa bits as products of 8-bit floats are."""
    return rounded(np.random.default_rng(4).standard_normal((16_384, 1000), np.float32), 5)


def measured(terms: np.ndarray, adder: Adder) -> tuple[float, float]:
    """Return the share of variance kept and the error energy, relative to the exact sums."""
    sums = emulated.add_up(terms, adder).astype(np.float64)
    exact = terms.sum(axis=0, dtype=np.float64)
    energy = float((exact**2).sum())
    return float((sums**2).sum()) / energy, float(((sums - exact) ** 2).sum()) / energy


def test_noise_and_loss_are_those_of_the_paper_or_of_our_measurements(terms: np.ndarray) -> None:
    """Where the theory is right (noise), too strict (8 bits) and too kind (4 bits, far beyond the limit)."""
    assert measured(terms[:1024], Adder(8))[1] == pytest.approx(rounding_nmse(8, 1024), rel=0.15)
    assert measured(terms[:4096], Adder(8))[1] == pytest.approx(rounding_nmse(8, 4096), rel=0.15)
    kept = measured(terms[:4096], Adder(5))[0]
    assert kept == pytest.approx(0.85, abs=0.04)
    assert measured(terms[:1024], Adder(7))[0] > 0.99
    deep = measured(terms, Adder(4))[0]
    assert deep < 0.75 * vrr(4, 5, 16_384)


def test_truncation_is_another_world(terms: np.ndarray) -> None:
    kept, _ = measured(terms[:256], Adder(7, "truncate"))
    assert vrr(7, 5, 256) > 0.999
    assert kept == pytest.approx(0.60, abs=0.05)


def test_chunks_lose_less(terms: np.ndarray) -> None:
    flat, chunked = (measured(terms[:4096], Adder(7, chunk=chunk))[1] for chunk in (None, 8))
    assert flat == pytest.approx(5.3e-3, rel=0.15)
    assert chunked == pytest.approx(7.6e-4, rel=0.15)


def test_sums_of_nothing_and_of_one() -> None:
    assert emulated.add_up(np.zeros((0, 2), np.float32), Adder(7)).tolist() == [0, 0]
    assert emulated.add_up(np.full((1, 1), 1.5, np.float32), Adder(1)).tolist() == [1.5]
    assert emulated_torch.add_up(torch.zeros(0, 2), Adder(7)).tolist() == [0, 0]


def test_what_can_not_be_emulated_is_refused() -> None:
    good = np.ones((2, 2), np.float32)
    cases: list[tuple[type[AlqError], str, Callable[[], object]]] = [
        (ConfigurationError, "mantissa: expected an integer from 1 to 23, got 0", lambda: Adder(0)),
        (ConfigurationError, "mantissa: expected an integer from 1 to 23, got 24", lambda: rounded(good, 24)),
        (ConfigurationError, "mode: expected one of nearest, truncate, got 'up'", lambda: Adder(7, "up")),  # type: ignore[arg-type]
        (ConfigurationError, "chunk: expected an integer from 1", lambda: Adder(7, chunk=0)),
        (ConfigurationError, "term: expected an integer from 1 to 23, got 0", lambda: Adder(7, term=0)),
        (UnsupportedTensor, "terms: expected float32, got int64", lambda: emulated.add_up(np.ones(3, int), Adder(7))),  # type: ignore[arg-type]
        (UnsupportedTensor, "terms: expected float32, got torch.float64",
         lambda: emulated_torch.add_up(torch.ones(3, dtype=torch.float64), Adder(7))),
        (UnsupportedTensor, "right: expected float32, got float64",
         lambda: emulated.matmul(good, np.ones((2, 2)), Adder(7))),  # type: ignore[arg-type]
        (ConfigurationError, "an axis to add up", lambda: emulated.add_up(np.float32(3).reshape(()), Adder(7))),
        (ConfigurationError, "matrices (m, k) and (k, n), got (2, 2) and (3, 2)",
         lambda: emulated_torch.matmul(torch.ones(2, 2), torch.ones(3, 2), Adder(7))),
    ]  # fmt: skip
    for kind, message, call in cases:
        with pytest.raises(kind) as caught:
            call()
        assert message in str(caught.value)
