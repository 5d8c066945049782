"""Data for the targets by chance alone: for tests, and where sanitisers leave no room for coverage."""

from __future__ import annotations

import random


class Chance:
    """Represent atheris's provider of data, by chance alone."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def ConsumeIntInRange(self, first: int, last: int) -> int:
        return self._random.randint(first, last)

    def ConsumeBool(self) -> bool:
        return self._random.random() < 0.5

    def ConsumeBytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def ConsumeFloat(self) -> float:
        return self._random.choice([self._random.uniform(-1e3, 1e3), float("nan"), float("-inf"), 1e-320])

    def ConsumeInt(self, size: int) -> int:
        return self._random.randrange(-(2 ** (8 * size - 1)), 2 ** (8 * size - 1))

    def remaining_bytes(self) -> int:
        return self._random.randint(0, 200)
