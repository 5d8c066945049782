"""A grid in one test reports every case that fails, and no case goes without having run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cases import each, name_of

pytest_plugins = "pytester"
GRID = """
import pytest
from tests.support.cases import each

@pytest.fixture
def ran():
    return []

@each("bits", range(1, 4))
@each(("norm", "scale"), [("l2", 1.0), ("linf", 2.0)])
def test_grid(ran, bits, norm, scale):
    ran.append((bits, norm, scale))
    assert bits != 2
    assert len(ran) < 6
"""


class Thing:
    pass


def test_every_case_runs_and_those_that_fail_are_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(GRID)
    result = pytester.runpytest("-p", "no:cacheprovider", "-p", "no:xdist")
    result.assert_outcomes(failed=4)
    names = ("bits=2, norm='l2', scale=1.0", "bits=2, norm='linf', scale=2.0", "bits=3, norm='linf', scale=2.0")
    result.stdout.fnmatch_lines(["contains 3 failed subtests", *(f"SUBFAILED?{name}? *" for name in names)])


def test_a_mistake_is_found_where_the_test_is_written() -> None:
    def test(bits: int) -> None:
        raise AssertionError

    with pytest.raises(AssertionError, match="a test without a case cannot fail"):
        each("bits", [])(test)
    with pytest.raises(AssertionError, match="test has no argument norm"):
        each("norm", ["l2"])(test)
    with pytest.raises(ValueError, match="zip"):
        each(("bits", "norm"), [(1, 2, 3)])(test)


def test_names_of_cases_are_short() -> None:
    named = {"made": name_of, "path": Path("/a/long/way/to/a.txt"), "thing": Thing(), "values": list(range(100))}
    assert name_of(named) == (
        "made=name_of, path=a.txt, thing=Thing, values=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16..."
    )
