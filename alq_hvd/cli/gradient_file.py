"""Read a gradient somebody dumped, or say exactly why it cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from alq_hvd.errors import ConfigurationError

_HOW_TO_DUMP = "write one with numpy.save(path, gradient.float().cpu().numpy())"


def read_gradient(path: Path) -> npt.NDArray[np.float32]:
    """Return the coordinates of a ``.npy`` file of floats, flattened: float32[n], n >= 1, finite, not all zero.

    Raises:
        ConfigurationError: when the file is missing, is something else, is empty, or holds NaN, infinity or nothing
            but zeros; the message says what to do.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise ConfigurationError(f"{path}: expected a .npy file of floats ({error}); {_HOW_TO_DUMP}") from None
    if not isinstance(loaded, np.ndarray):
        raise ConfigurationError(f"{path}: expected one array, got an .npz archive; {_HOW_TO_DUMP}")
    if loaded.dtype.kind != "f":
        raise ConfigurationError(f"{path}: expected floats, got {loaded.dtype}; {_HOW_TO_DUMP}")
    if loaded.size == 0:
        raise ConfigurationError(f"{path}: the array is empty, shape {loaded.shape}; dump a gradient after backward()")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(loaded, dtype=np.float32).reshape(-1)
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise ConfigurationError(
            f"{path}: {bad} of {values.size} coordinates are NaN or infinite (as float32): dump a step without "
            "overflow, or unscale the gradients first when training in mixed precision"
        )
    if not values.any():
        raise ConfigurationError(
            f"{path}: all {values.size} coordinates are zero, so any levels fit: dump a gradient of a later step"
        )
    return values
