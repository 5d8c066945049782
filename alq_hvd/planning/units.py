"""Rates and sizes as people write them: ``25gbit``, ``100mbit``, ``25.6e6``."""

from __future__ import annotations

import math
import re

from alq_hvd.errors import ConfigurationError

_RATES = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "tbit": 1e12}


def bits_per_second(text: str) -> float:
    """Return the rate that ``text`` means, units as in ``tc``: bit, kbit, mbit, gbit, tbit (powers of ten).

    Raises:
        ConfigurationError: when it means none.
    """
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([kmgt]?bit)(?:/s|ps)?", text.strip().lower())
    try:
        rate = float(match[1]) * _RATES[match[2]] if match else math.nan
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ConfigurationError(f"link: expected a rate such as 25gbit or 100mbit, got {text!r}")
    return rate


def count(name: str, text: str) -> int:
    """Return a positive whole number, written as 25600000, 25.6e6 or 2_000.

    Raises:
        ConfigurationError: when it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (1 <= value < 2**53 and value == int(value)):
        raise ConfigurationError(f"{name}: expected a whole number from 1, such as 25.6e6, got {text!r}")
    return int(value)
