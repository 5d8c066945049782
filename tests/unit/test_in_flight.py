"""Groups on their way: each stage's collectives start in the order of the groups, whenever they arrive."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from alq_hvd.exchange.base import Decode
from alq_hvd.exchange.in_flight import GroupsInFlight
from alq_hvd.exchange.ledger import Ledger


class Late:
    """Arrive at the time that a random number says."""

    def __init__(self, drawn: random.Random) -> None:
        self.drawn = drawn

    def done(self) -> bool:
        return self.drawn.random() < 0.1

    def wait(self) -> None:
        return None


@pytest.mark.parametrize("collectives", [1, 2, 4])
def test_collectives_of_a_stage_start_in_the_order_of_the_groups(collectives: int) -> None:
    for seed in range(300):
        drawn = random.Random(seed)
        started: list[tuple[int, int]] = []

        def exchange(group: int, drawn: random.Random, started: list[tuple[int, int]]) -> Iterator[Late]:
            for stage in range(collectives):
                started.append((stage, group))
                yield Late(drawn)
            return _decode  # type: ignore[return-value]

        groups = GroupsInFlight(Ledger())
        for group in range(6):
            groups.start(group, exchange(group, drawn, started), np.zeros(1, dtype=np.float32))  # type: ignore[arg-type]
            groups.advance()
        for group in drawn.sample(range(6), 6):
            groups.finish(group, 1.0, collectives)
        for stage in range(collectives):
            assert [group for of, group in started if of == stage] == list(range(6)), (seed, stage)


def _decode(scale: float, out: np.ndarray) -> None:
    """Leave everything as it is."""


_: Decode = _decode
