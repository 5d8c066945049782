"""A table of levels: its invariants, its identity, its history."""

import numpy as np
import pytest

from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels import MINIMUM_GAP, Levels
from tests.support.cases import each

THREE_BITS = np.array([-1, -0.5, -0.25, -0.125, 0.125, 0.25, 0.5, 1], dtype=np.float32)


def test_values_are_read_only_float32_whatever_they_came_from() -> None:
    source = THREE_BITS.astype(np.float64)
    levels = Levels(source)
    source[0] = 0
    assert levels.values.dtype == np.float32 and levels.values[0] == -1
    with pytest.raises(ValueError, match="read-only"):
        levels.values[0] = 0.5


@each(
    ("values", "message"),
    [
        ([0.5], "expected 2 to 256 levels, got 1"),
        (np.linspace(-1, 1, 257), "expected 2 to 256 levels, got 257"),
        ([-1, np.nan, 1], "expected finite levels"),
        ([-1, np.inf], "expected finite levels"),
        ([-1.001, 1], r"within \[-1, 1\]"),
        ([-1, 1.001], r"within \[-1, 1\]"),
        ([-1, 0.5, 0.25, 1], "strictly increasing"),
        ([-1, 0.5, 0.5, 1], "strictly increasing"),
        ([-1, 0.5, 0.5 + 1e-9, 1], "strictly increasing levels at least 1e-07 apart"),
        ([-1e-8, 1e-8], "at least 1e-07 apart"),
    ],
)
def test_tables_that_could_not_be_decoded_are_refused(values: list[float], message: str) -> None:
    """Pitfall 9: levels that cross or merge, also when only rounding to float32 merges them."""
    with pytest.raises(ConfigurationError, match=message):
        Levels(np.asarray(values))


def test_the_smallest_gap_is_accepted() -> None:
    assert len(Levels(np.array([0.0, 1.2 * MINIMUM_GAP]))) == 2


def test_a_negative_version_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="version of 0 or more, got -1"):
        Levels(THREE_BITS, -1)


def test_the_digest_is_of_the_values_alone_and_the_same_for_ever() -> None:
    assert Levels(THREE_BITS, 0).digest == Levels(THREE_BITS, 7).digest == 122680277
    changed = THREE_BITS.copy()
    changed[3] = np.nextafter(changed[3], np.float32(0))
    assert Levels(changed).digest != Levels(THREE_BITS).digest


def test_equality_is_of_values_and_version() -> None:
    assert Levels(THREE_BITS) == Levels(THREE_BITS.astype(np.float64))
    assert Levels(THREE_BITS) != Levels(THREE_BITS, 1)
    assert Levels(THREE_BITS) != "levels"
    assert len({Levels(THREE_BITS), Levels(THREE_BITS), Levels(THREE_BITS, 1)}) == 2


@each(("count", "bits"), [(2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (255, 8), (256, 8)])
def test_minimum_bits_index_every_level(count: int, bits: int) -> None:
    levels = Levels(np.linspace(-1, 1, count))
    assert levels.minimum_bits == bits
    QuantiserConfig(bits).require_fit(levels)
    if bits > 1:
        with pytest.raises(ConfigurationError, match=f"use bits={bits} or more"):
            QuantiserConfig(bits - 1).require_fit(levels)


def test_inverse_gaps_end_with_zero_so_that_nothing_is_rounded_up_from_the_last_level() -> None:
    assert Levels(THREE_BITS).inverse_gaps.tolist() == [2, 4, 8, 4, 8, 4, 2, 0]


def test_the_next_version_follows_and_a_checkpoint_brings_both_back() -> None:
    """Pitfall 14."""
    following = Levels(THREE_BITS, 4).next_version(THREE_BITS * 0.5)
    assert following.version == 5 and following.values[-1] == 0.5
    assert Levels.from_state_dict(following.state_dict()) == following
    assert all(isinstance(value, float) for value in following.state_dict()["values"])


def test_text_shows_version_and_values() -> None:
    assert str(Levels(np.array([-1, 0.25]), 3)) == "v3 [-1, +0.25]"
