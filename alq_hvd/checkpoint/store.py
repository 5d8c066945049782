"""Checkpoint files of one directory: written whole or not at all, checked when read, the previous one kept."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from alq_hvd.errors import CheckpointError
from alq_hvd.quantiser.config import require_int

_logger = logging.getLogger(__name__)
_HEADER = struct.Struct("<8sQ32s")
"""Magic, length of the payload, sha256 of the payload."""
_MAGIC = b"ALQCKPT1"
_NAME = re.compile(r"step-(\d{9,})\.ckpt")


@dataclass(frozen=True, slots=True)
class Found:
    """Hold the newest whole checkpoint of a directory."""

    step: int
    path: Path
    payload: bytes


class CheckpointStore:
    """Keep the last checkpoints of one run in ``directory``; for one process only, which is rank 0.

    Args:
        directory: made when missing; give every run its own.
        keep: how many whole checkpoints stay, at least 2: the last one may turn out damaged.
    """

    def __init__(self, directory: str | Path, keep: int = 2) -> None:
        require_int("keep", keep, 2, 10**6)
        self.directory = Path(directory)
        self._keep = keep

    def write(self, step: int, payload: bytes) -> Path:
        """Write the checkpoint of ``step`` and drop the oldest ones.

        1. Write and fsync a draft: a cut from here on leaves the earlier checkpoints as they are. A draft that cannot
        be finished is removed: the disk may be full. 2. Rename it, which is one indivisible act, and fsync the
        directory. 3. Only then remove what exceeds ``keep``.

        Raises:
            CheckpointError: when the file system refuses; the earlier checkpoints are still there.
        """
        path = self.directory / f"step-{step:09d}.ckpt"
        draft = path.with_suffix(".part")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                file.write(_HEADER.pack(_MAGIC, len(payload), hashlib.sha256(payload).digest()))
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            _fsync_directory(self.directory)
            for _, old in self._checkpoints()[self._keep :]:
                old.unlink(missing_ok=True)
            for abandoned in self.directory.glob("step-*.part"):
                abandoned.unlink(missing_ok=True)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise CheckpointError(
                f"could not write the checkpoint of step {step} to {self.directory}: {error}; earlier checkpoints are "
                "untouched. Make room or give another directory"
            ) from error
        return path

    def newest(self) -> Found | None:
        """Return the newest whole checkpoint, ``None`` where there is none at all.

        A damaged one is reported, renamed to ``*.damaged`` and passed over.

        Raises:
            CheckpointError: when there are checkpoints and every one is damaged, or when they cannot be read.
        """
        complaints: list[str] = []
        try:
            for step, path in self._checkpoints():
                payload, complaint = _read(path)
                if payload is not None:
                    for text in complaints:
                        _logger.warning("%s; going on from %s instead", text, path)
                    return Found(step, path, payload)
                complaints.append(f"checkpoint {path} is damaged: {complaint}")
                path.rename(path.with_suffix(".damaged"))
        except OSError as error:
            raise CheckpointError(f"could not read the checkpoints in {self.directory}: {error}") from error
        if complaints:
            raise CheckpointError(
                f"expected at least one whole checkpoint in {self.directory}, got none: {'; '.join(complaints)}. "
                "Give another directory to start again"
            )
        return None

    def _checkpoints(self) -> list[tuple[int, Path]]:
        """Return step and path of every checkpoint, the newest first."""
        matches = ((_NAME.fullmatch(path.name), path) for path in self.directory.glob("step-*.ckpt"))
        return sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)


def _read(path: Path) -> tuple[bytes | None, str]:
    """Return the payload of a checkpoint, or nothing and what is wrong with it."""
    content = path.read_bytes()
    if len(content) < _HEADER.size:
        return None, f"expected a header of {_HEADER.size} bytes, got {len(content)} bytes"
    magic, length, digest = _HEADER.unpack_from(content)
    if magic != _MAGIC:
        return None, f"expected it to begin with {_MAGIC!r}, got {magic!r}"
    payload = content[_HEADER.size :]
    if len(payload) != length:
        return None, f"expected {length} bytes after the header, got {len(payload)}"
    if hashlib.sha256(payload).digest() != digest:
        return None, "its sha256 does not fit its content"
    return payload, ""


def _fsync_directory(directory: Path) -> None:
    """Make a rename in ``directory`` survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
