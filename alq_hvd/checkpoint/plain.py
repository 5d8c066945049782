"""Bytes of a state and back, without executing anything: tensors and plain Python values only."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import Any

from alq_hvd import backends
from alq_hvd.errors import StateError

_SCALARS = (type(None), bool, int, float, complex, str, bytes)
_CONTAINERS = (dict, OrderedDict, list, tuple)


def pack(state: Any, what: str) -> bytes:
    """Return ``state`` as bytes that ``unpack`` reads.

    Raises:
        StateError: naming the first value that could not be read back. It is better refused now than when the run is
            to be resumed.
    """
    _require_plain(state, what)
    buffer = io.BytesIO()
    backends.torch().save(state, buffer)
    return buffer.getvalue()


def unpack(data: bytes, what: str) -> Any:
    """Return what ``pack`` was given, tensors on the CPU.

    Raises:
        StateError: when the bytes are something else.
    """
    try:
        return backends.torch().load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise StateError(f"{what}: expected a state written by this version of alq_hvd, got {error}") from error


def _require_plain(value: Any, path: str) -> None:
    torch = backends.torch()
    if type(value) in _SCALARS or type(value) in (torch.Tensor, torch.nn.Parameter, torch.Size, torch.dtype):
        return
    if type(value) not in _CONTAINERS:
        raise StateError(
            f"{path}: expected tensors, numbers, strings, lists, tuples and dicts, got {type(value).__module__}."
            f"{type(value).__qualname__}: turn it into one of them in state_dict()"
        )
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in pairs:
        if type(key) not in _SCALARS:
            raise StateError(f"{path}: expected keys that are numbers or strings, got {key!r}")
        _require_plain(part, f"{path}[{key!r}]")
