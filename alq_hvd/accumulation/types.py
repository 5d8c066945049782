"""The float types a sum can be kept in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alq_hvd import backends
from alq_hvd.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class FloatType:
    """Describe one.

    Attributes:
        name: as users write it.
        torch_name: as torch does.
        mantissa: fractional bits, the hidden one not counted.
        bytes: of a number.
    """

    name: str
    torch_name: str
    mantissa: int
    bytes: int

    @property
    def torch(self) -> Any:
        """Return torch's dtype."""
        return getattr(backends.torch(), self.torch_name)


TYPES = {
    each.name: each
    for each in (
        FloatType("bf16", "bfloat16", 7, 2),
        FloatType("fp16", "float16", 10, 2),
        FloatType("fp32", "float32", 23, 4),
    )
}
"""Fewest mantissa bits first."""
FP32 = TYPES["fp32"]
AUTO = "auto"
NAMES = (AUTO, *TYPES)


def require_type(option: str, name: object, names: Sequence[str] = NAMES) -> None:
    """Raise ``ConfigurationError`` unless ``name`` is one of ``names``."""
    if name not in names:
        raise ConfigurationError(f"{option}: expected one of {', '.join(names)}, got {name!r}")
