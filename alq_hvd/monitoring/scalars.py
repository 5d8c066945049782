"""The numbers in ``metrics()``, by path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_NOT_NUMBERS = ("levels", "adaptations", "break_even")
"""Tables and histories, which no curve shows."""


def scalars(metrics: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """Yield path and value of every number, such as ``seconds/encode`` and ``later_shots/0/relative_variance``."""
    for key, value in metrics.items():
        if key in _NOT_NUMBERS:
            continue
        if isinstance(value, Mapping):
            yield from scalars(value, f"{path}{key}/")
        elif isinstance(value, list):
            for place, part in enumerate(value):
                if isinstance(part, Mapping):
                    yield from scalars(part, f"{path}{key}/{place}/")
        elif isinstance(value, (bool, int, float)):
            yield f"{path}{key}", float(value)
