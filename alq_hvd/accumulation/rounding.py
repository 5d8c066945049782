"""Round floats to fewer mantissa bits, as a narrow register does, and predict the noise of a sum rounded so."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from alq_hvd.errors import ConfigurationError, UnsupportedTensor
from alq_hvd.quantiser.config import require_int

Mode = Literal["nearest", "truncate"]
MODES: tuple[Mode, ...] = get_args(Mode)
FULL = 23
"""Mantissa bits of float32, whose exponent range every emulated float has."""
FloatArray = npt.NDArray[np.float32]
_NEAREST_NOISE = 3 / (8 * math.log(2)) / 24


def rounding_nmse(accumulator: int, count: int) -> float:
    """Return E|error|^2 / E|sum|^2 of adding ``count`` independent terms, each sum rounded to nearest.

    0.0225 n 4^-m: good to a tenth from 64 terms up to where swamping begins, n << 4^m; short sums have more, for the
    position of a sum between two powers of two is then not yet spread evenly.
    """
    require_int("accumulator", accumulator, 1, 60)
    require_int("count", count, 0, 2**62)
    return float(_NEAREST_NOISE * count * 4.0**-accumulator)


def require_rounding(mantissa: int, mode: str) -> None:
    """Raise ``ConfigurationError`` unless float32 can be rounded so."""
    require_int("mantissa", mantissa, 1, FULL)
    if mode not in MODES:
        raise ConfigurationError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")


def require_float32(name: str, dtype: object) -> None:
    """Raise ``UnsupportedTensor`` unless ``dtype``, of NumPy or torch, is float32."""
    if str(dtype).removeprefix("torch.") != "float32":
        raise UnsupportedTensor(f"{name}: expected float32, got {dtype}: convert it first, {name}.float() in torch")


def rounded(values: FloatArray, mantissa: int, mode: Mode = "nearest") -> FloatArray:
    """Return ``values`` with ``mantissa`` fractional bits, in new memory.

    Args:
        values: float32 of any shape. NaN stays NaN and infinity infinite; beyond the largest float of so many bits
            "nearest" gives infinity. Denormal numbers keep their absolute grid.
        mantissa: 1 to 23; 23 changes nothing.
        mode: ``"nearest"``, ties to even, or ``"truncate"``, towards zero.

    Raises:
        UnsupportedTensor: ``values`` is not float32.
        ConfigurationError: no such width or mode.
    """
    require_rounding(mantissa, mode)
    require_float32("values", values.dtype)
    dropped = FULL - mantissa
    words = np.ascontiguousarray(values).view(np.uint32)
    if mode == "nearest" and dropped:
        ties_to_even = (words >> np.uint32(dropped)) & np.uint32(1)
        kept = words + (np.uint32(2 ** (dropped - 1) - 1) + ties_to_even)
    else:
        kept = words.copy()
    kept &= np.uint32(2**32 - 2**dropped)
    result = kept.view(np.float32).reshape(values.shape)
    np.copyto(result, values, where=np.isnan(values))  # whose bits a carry, or a mask, could turn into a number
    return result
