"""When levels are fitted."""

from __future__ import annotations

import pytest

from alq_hvd import Schedule
from alq_hvd.errors import ConfigurationError
from tests.support.cases import each


def steps(schedule: Schedule, until: int) -> list[int]:
    return [step for step in range(until) if step in schedule]


def test_the_default_is_the_papers() -> None:
    assert steps(Schedule.parse(None), 30_001) == [0, 100, 2000, 10_000, 20_000, 30_000]


def test_an_interval_starts_at_step_zero() -> None:
    assert steps(Schedule.parse(7), 30) == [0, 7, 14, 21, 28]


def test_a_list_names_the_steps() -> None:
    assert steps(Schedule.parse([3, 5]), 100) == [3, 5]


def test_an_empty_list_never_adapts() -> None:
    assert steps(Schedule.parse([]), 100) == []


@each("wrong", [0, -1, True, [1.5], [-1], "0,100", {"every": 3}])
def test_what_is_no_schedule_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="schedule"):
        Schedule.parse(wrong)  # type: ignore[arg-type]
