"""A few hundred inputs that nobody has written for every reader; ``make fuzz`` tries millions, guided by coverage."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from alq_hvd.errors import StateError
from tests.fuzz import run
from tests.fuzz.chance import Chance
from tests.fuzz.kit import _ODD, Kit


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize(
    ("target", "inputs"), [("records", 30), ("messages", 300), ("states", 200), ("checkpoints", 80)]
)
def test_a_reader_accepts_or_refuses_with_an_error_of_ours(
    target: str, inputs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    kit = Kit(tmp_path)
    kit.prepare(target, watch=False)  # a hook cannot be taken away again
    monkeypatch.setattr(run, "KIT", kit)
    for seed in range(inputs):
        try:
            run.TARGETS[target](Chance(seed))
        except Exception as error:
            raise AssertionError(f"{target}, seed {seed}: {type(error).__name__}: {error}") from error


def test_every_odd_value_in_place_of_every_value_of_a_state_is_accepted_or_refused() -> None:
    """What ``make fuzz`` found first: infinite steps, tables for numbers."""
    came_to: Counter[str] = Counter()
    for number in range(4):
        whole = Kit.compression(number).state_dict()
        for key in [*whole, None]:
            for odd in _ODD:
                compression = Kit.compression(number)
                try:
                    compression.load_state_dict(odd if key is None else {**whole, key: odd})
                    came_to["accepted"] += 1
                except StateError:
                    came_to["refused"] += 1
                except ValueError as error:
                    assert type(error).__module__ == "alq_hvd.errors", (key, odd, error)
                    came_to["refused"] += 1
    assert came_to["refused"] > came_to["accepted"], came_to
