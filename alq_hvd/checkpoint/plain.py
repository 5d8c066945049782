"""Bytes of a state and back, without executing anything: what ``torch.load(weights_only=True)`` reads, and no more."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from alq_hvd import backends
from alq_hvd.errors import StateError

_LONGEST_REASON = 300
"""Characters of torch's own words that an error repeats."""


def pack(state: Any, what: str) -> bytes:
    """Return ``state`` as bytes that ``unpack`` reads.

    The bytes are read back at once, because torch alone knows what it reads: it differs between versions, and
    ``torch.serialization.add_safe_globals`` adds to it.

    Raises:
        StateError: naming the path of the first value that could not be read back. It is better refused now than when
            the run is to be resumed.
    """
    data, reason = _try(state)
    if data is None:
        raise StateError(_complaint(state, what, reason))
    return data


def unpack(data: bytes, what: str) -> Any:
    """Return what ``pack`` was given, tensors on the CPU.

    Raises:
        StateError: when the bytes are something else.
    """
    try:
        return _read(io.BytesIO(data))
    except Exception as error:  # damaged bytes end in errors of any kind
        raise StateError(
            f"{what}: expected a state written by this version of alq_hvd, got {_reason(error)}"
        ) from error


def _read(file: io.BytesIO) -> Any:
    return backends.torch().load(file, map_location="cpu", weights_only=True)


def _try(value: Any) -> tuple[bytes | None, str]:
    """Return the bytes of ``value``, or nothing and why not."""
    buffer = io.BytesIO()
    try:
        backends.torch().save(value, buffer)
        buffer.seek(0)
        _read(buffer)
    except Exception as error:  # a user's class may raise anything when it is pickled
        return None, _reason(error)
    return buffer.getvalue(), ""


def _complaint(value: Any, path: str, reason: str) -> str:
    """Return the error's text for the innermost part of ``value`` that cannot be saved by itself."""
    for part_path, part in _parts(value, path):
        if (found := _try(part))[0] is None:
            return _complaint(part, part_path, found[1])
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return (
        f"{path}: expected what torch.load(weights_only=True) reads back, such as tensors, numbers, strings, lists, "
        f"tuples, sets and dicts, got {kind} ({reason}): turn it into one of them in state_dict(), or leave it out"
    )


def _parts(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield what ``value`` consists of, with its path."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield f"{path}: key {key!r}", key
            yield f"{path}[{key!r}]", part
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        for place, part in enumerate(value):
            yield f"{path}[{place}]", part
    elif isinstance(value, Set):
        for part in value:
            yield f"{path}: element {part!r}", part


def _reason(error: BaseException) -> str:
    """Return the line of an error that says what is wrong: torch puts advice to load without its safety before it."""
    lines = str(error).strip().splitlines() or [""]
    chosen = next((line for line in lines if "WeightsUnpickler error" in line), lines[0])
    return f"{type(error).__name__}: {chosen.partition('. Please use')[0].strip()}"[:_LONGEST_REASON]
