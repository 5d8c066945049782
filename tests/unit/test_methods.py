"""The registry: every name works where it is defined, and says where it is when it is not."""

import math

import numpy as np
import pytest

from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser import methods
from tests.support.cases import each


@each("name", methods.NAMES)
def test_every_method_has_first_levels_that_fit_its_bits(name: str) -> None:
    lowest = methods.method(name, bits=2).minimum_bits
    for bits in range(lowest, min(methods.method(name, bits=2).maximum_bits, 8) + 1):
        found = methods.method(name, bits=bits)
        levels = found.initial(bits)
        assert levels.minimum_bits <= bits
        assert levels.values[0] == -1 and levels.values[-1] == 1
        assert np.array_equal(levels.values, -levels.values[::-1])


def test_published_tables_at_three_bits() -> None:
    """Section 3 of the specification: +-{1/7, 3/7, 5/7, 1} and +-{1/8, 1/4, 1/2, 1}."""
    uniform = methods.method("qsgd", bits=3, zero_level=False).initial(3).values[4:]
    np.testing.assert_allclose(uniform, np.array([1, 3, 5, 7]) / 7, rtol=1e-6)
    for name in ("alq", "nuqsgd"):
        values = methods.method(name, bits=3, zero_level=False).initial(3).values
        assert values[4:].tolist() == [0.125, 0.25, 0.5, 1.0]


def test_a_table_holds_a_zero_by_default_where_it_keeps_zeros_and_costs_little() -> None:
    """docs/decisions/0014: from 2 bits on, in ALQ and its variants from 3, and never where buckets are rotated."""
    least = dict.fromkeys(methods.NAMES, 2) | dict.fromkeys(("alq", "alq_n", "alqg", "alqg_n", "amq", "amq_n"), 3)
    for name in methods.NAMES:
        low, high = methods.bits_of(name)
        for bits in range(low, min(high, 8) + 1):
            holds = 0.0 in methods.method(name, bits=bits).initial(bits).values.tolist()
            assert holds == (bits >= least[name] and name not in ("eden", "none")), (name, bits)
            if True in methods.rotations_of(name) and name != "terngrad":
                rotated = methods.method(name, bits=bits, rotate=True).initial(bits).values.tolist()
                assert 0.0 not in rotated, (name, bits)


def test_norms_and_clipping_of_the_published_methods() -> None:
    norms = {name: methods.method(name, bits=2).norm for name in ("alq", "qsgd", "qsgdinf", "nuqsgd", "terngrad")}
    assert norms == {"alq": "l2", "qsgd": "l2", "qsgdinf": "linf", "nuqsgd": "l2", "terngrad": "linf"}
    assert methods.method("terngrad", bits=2).clip == 2.5
    assert methods.method("terngrad", bits=2, clip=math.inf).clip is None
    assert methods.method("alq", bits=3).clip is None
    assert methods.method("alq", bits=3, clip=3.0).clip == 3.0


def test_nuqsgd_with_zero_is_the_one_its_theory_describes() -> None:
    levels = methods.method("nuqsgd", bits=3, zero_level=True).initial(3)
    assert levels.values.tolist() == [-1, -0.5, -0.25, 0, 0.25, 0.5, 1]


def test_weighting() -> None:
    assert methods.method("alq", bits=3).policy.weight_exponent == 2
    assert methods.method("alq", bits=3, weight_exponent=1).policy.weight_exponent == 1
    assert methods.method("alq_n", bits=3).policy.weight_exponent == 0


@each(
    ("call", "message"),
    [
        ({"name": "alp", "bits": 3}, "expected one of alq, alq_n"),
        ({"name": "terngrad", "bits": 3}, "terngrad is defined at 2 bits only, got 3"),
        ({"name": "alq", "bits": 9}, "alq is defined at 1 to 8 bits, got 9"),
        ({"name": "qsgd", "bits": 1, "zero_level": True}, "with a zero level is defined at 2 to 8 bits, got 1"),
        ({"name": "alq", "bits": True}, "1 to 8 bits, got True"),
        ({"name": "alq", "bits": 3, "norm": "l1"}, "expected one of l2, linf, got 'l1'"),
        ({"name": "alq", "bits": 3, "clip": 0.0}, "clip: expected a positive number"),
        ({"name": "alq", "bits": 3, "clip": math.nan}, "clip: expected a positive number"),
        ({"name": "alq_n", "bits": 3, "weight_exponent": 2}, "alq_n takes 0, got 2"),
        ({"name": "alq", "bits": 3, "weight_exponent": 3}, "alq takes 2 or 1 or 0, got 3"),
        ({"name": "qsgd", "bits": 3, "weight_exponent": 1}, "qsgd has no such option"),
        ({"name": "alq", "bits": 3, "free_ends": True}, "free_ends: alq takes False"),
        ({"name": "terngrad", "bits": 2, "zero_level": True}, "zero_level: terngrad takes False"),
    ],
)
def test_a_mistake_is_named_with_what_is_valid(call: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigurationError, match=message):
        methods.method(**call)


def test_every_method_can_be_rotated_but_the_exact_one_and_eden_always_is() -> None:
    for name in methods.NAMES:
        rotations = methods.rotations_of(name)
        assert methods.method(name, bits=2).rotate is rotations[0]
        for rotate in rotations:
            for norm in ("l2", "linf") if name != "eden" else ("l2",):
                config = methods.method(name, bits=2, rotate=rotate, norm=norm).quantiser(2, 512)
                assert (config.rotate, config.norm, config.bucket_size) == (rotate, norm, 512)
    assert methods.rotations_of("optimal") == (False, True)
    assert methods.method("eden", bits=3).quantiser(3, 512).rounding == "nearest"


@each(
    ("call", "message"),
    [
        ({"name": "eden", "rotate": False}, "rotate: eden takes True, got False"),
        ({"name": "none", "rotate": True}, "rotate: none takes False, got True"),
        ({"name": "eden", "norm": "linf"}, "norm: eden takes 'l2', got 'linf'"),
        ({"name": "eden", "zero_level": True}, "zero_level: eden takes False"),
    ],
)
def test_what_can_not_be_rotated_says_so(call: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        methods.method(bits=3, **call)  # type: ignore[arg-type]
