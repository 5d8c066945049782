"""Grids of cases in one test: ``@each`` is ``pytest.mark.parametrize`` without the weight of a test a case."""

from __future__ import annotations

import functools
import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any

import pytest

Test = Callable[..., None]
Case = Mapping[str, Any]
LONGEST = 60
"""Characters of a value in the name of a case."""


def each(names: str | tuple[str, ...], values: Iterable[Any]) -> Callable[[Test], Test]:
    """Run a test once a value, all in one test, and report each value that fails by name; the others run all the same.

    Several above each other make a grid. Fixtures are made once for all cases, so that a test which writes into
    ``tmp_path`` or patches what a case changes had better say ``pytest.mark.parametrize``.

    Args:
        names: the argument, or arguments, of the test.
        values: one value a case, or one tuple with as many values as there are names.
    """
    wanted = (names,) if isinstance(names, str) else names
    rows = [dict(zip(wanted, (row,) if isinstance(names, str) else row, strict=True)) for row in values]
    assert rows, f"{names}: a test without a case cannot fail"

    def decorate(test: Test) -> Test:
        once, inner = getattr(test, "_case", (test, [{}]))
        cases = [{**row, **case} for row, case in itertools.product(rows, inner)]
        signature = inspect.signature(once)
        unknown = cases[0].keys() - signature.parameters.keys()
        assert not unknown, f"{once.__name__} has no argument {', '.join(sorted(unknown))}"

        @functools.wraps(once)
        def every_case(subtests: pytest.Subtests, **fixtures: Any) -> None:
            for case in cases:
                with subtests.test(name_of(case)):
                    once(**fixtures, **case)

        fixtures = [argument for name, argument in signature.parameters.items() if name not in cases[0]]
        subtests = inspect.Parameter("subtests", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        every_case.__signature__ = signature.replace(parameters=[subtests, *fixtures])  # type: ignore[attr-defined]
        every_case._case = once, cases  # type: ignore[attr-defined]
        return every_case

    return decorate


if not hasattr(pytest, "Subtests"):  # before pytest 9, which the machines of the GPU tests may have: a test a case
    each = pytest.mark.parametrize  # type: ignore[assignment]


def name_of(case: Case) -> str:
    """Return ``bits=3, norm='l2'``."""
    return ", ".join(f"{name}={short(value)}" for name, value in case.items())


def short(value: Any) -> str:
    """Return what tells a value from others: its name, if it has one, else the start of what Python shows."""
    text = value.name if isinstance(value, PurePath) else getattr(value, "__name__", None) or repr(value)
    text = re.sub(r"<(?:\w+\.)*(\w+) object at 0x\w+>", r"\1", " ".join(str(text).split()))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
