"""Sums of codes with one shared scale are sums of integers: exact in enough bits."""

from __future__ import annotations

from alq_hvd.quantiser.config import require_int


def integer_sum_bits(count: int, largest: int) -> int:
    """Return the width of a signed integer that holds any sum of ``count`` codes in -largest..largest, exactly.

    Raises:
        ConfigurationError: a negative number, or none at all.
    """
    require_int("count", count, 0, 2**62)
    require_int("largest", largest, 0, 2**62)
    return 1 + (count * largest).bit_length()
