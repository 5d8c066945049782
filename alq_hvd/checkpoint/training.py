"""All that a training needs to go on bit for bit, from every rank into one file and back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alq_hvd.checkpoint import random_state
from alq_hvd.checkpoint.plain import pack, unpack
from alq_hvd.checkpoint.store import CheckpointStore
from alq_hvd.communicator.base import Communicator, allgather_bytes, broadcast_bytes, gather_bytes, scatter_bytes
from alq_hvd.communicator.horovod import HorovodCommunicator
from alq_hvd.errors import AlqError, CheckpointError, StateError

_logger = logging.getLogger(__name__)
_CHIEF = 0
_FINE, _FAILED = b"\0", b"\1"


@dataclass(frozen=True, slots=True)
class Restored:
    """Say where a run goes on.

    Attributes:
        step: what ``save`` was given.
        position: what ``save`` was given on rank 0.
        path: the file.
        same_world: whether as many ranks run as did when it was saved; only then the continuation is bit-exact.
    """

    step: int
    position: dict[str, Any]
    path: Path
    same_world: bool


class Checkpoint:
    """Save and restore model, optimizer, schedule, codec, random generators and the position in the data.

    Rank 0 writes one file. Parameters, optimizer and schedule are rank 0's, for they are equal everywhere; buffers
    (BatchNorm's statistics), generators, codec and ``own`` are kept for each rank.

    All ranks must agree on: when ``save`` and ``restore`` are called.

    Args:
        directory: of this run alone.
        model, optimizer: as given to Horovod; the optimizer may be ``hvd.DistributedOptimizer``.
        schedule: a learning-rate schedule, if there is one.
        compression: of ``alq_hvd.Compression``; stock Horovod's have no state and are accepted.
        settings: plain values, such as the seed and the batch size, without which the continuation makes no sense:
            a resumed run that has others is refused.
        own: more objects with ``state_dict`` and ``load_state_dict``, kept for each rank.
        keep: how many checkpoints stay on disk, at least 2.
        communicator: of all ranks; Horovod's when ``None``.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        model: Any,
        optimizer: Any,
        schedule: Any = None,
        compression: Any = None,
        settings: Mapping[str, Any] | None = None,
        own: Mapping[str, Any] | None = None,
        keep: int = 2,
        communicator: Communicator | None = None,
    ) -> None:
        self._store = CheckpointStore(Path(directory), keep)
        self._model = model
        self._settings = dict(settings or {})
        self._shared = {"optimizer": optimizer, **({} if schedule is None else {"schedule": schedule})}
        self._own = dict(own or {})
        if hasattr(compression, "state_dict"):
            self._own["compression"] = compression
        self._communicator = communicator or HorovodCommunicator()

    def save(self, step: int, position: dict[str, Any]) -> Path:
        """Write the checkpoint of ``step``, between two steps; return its path once it is safely on disk.

        1. Every rank packs its own part. 2. All hear whether one could not. 3. Rank 0 gathers the parts. 4. It writes.
        5. Broadcast how that went.

        Args:
            step: completed steps, which also names the file.
            position: plain values from which the data loader goes on; rank 0's is kept.

        Raises:
            StateError: on every rank, when the state of one holds something that could not be read back, or the model
                is sharded.
            CheckpointError: on every rank, when rank 0 could not write.
        """

        def pack_own() -> bytes:
            _require_whole(self._model)
            own = {
                "buffers": dict(self._model.named_buffers()),
                "random": random_state.capture(),
                **{name: part.state_dict() for name, part in self._own.items()},
            }
            return pack(own, "own")

        own = self._on_every_rank(pack_own, "packed")
        parts = gather_bytes(self._communicator, own, _CHIEF, "alq_hvd.checkpoint.parts")

        def write() -> bytes:
            shared = {"model": self._model.state_dict()}
            shared |= {name: part.state_dict() for name, part in self._shared.items()}
            whole = {"settings": self._settings, "position": position, "shared": shared, "parts": parts}
            return str(self._store.write(step, pack(whole, "checkpoint"))).encode()

        return Path(self._from_chief(write).decode())

    def restore(self) -> Restored | None:
        """Go back to the newest whole checkpoint on every rank; ``None``, and nothing is touched, where there is none.

        1. Rank 0 reads. 2. Broadcast of what ranks share. 3. Each gets its own part.

        Raises:
            StateError: on every rank, when the checkpoint belongs to another model, optimizer, compression or other
                settings on one of them.
            CheckpointError: on every rank, when there are checkpoints but every one is damaged.
        """
        rank, size = self._communicator.rank, self._communicator.size
        parts: list[bytes] = []  # one a rank, on rank 0

        def read() -> bytes:
            found = self._store.newest()
            if found is None:
                return b""
            whole = unpack(found.payload, str(found.path))
            try:
                saved = whole.pop("parts")
                parts.extend(saved[each if each < len(saved) else _CHIEF] for each in range(size))
            except (AttributeError, KeyError, IndexError, TypeError) as error:
                raise StateError(f"{found.path}: expected what save() writes, got a file without {error}") from error
            return pack((found.step, str(found.path), len(saved), whole), "found")

        received = self._from_chief(read)
        if not received:
            return None
        step, path, ranks, whole = unpack(received, "found")
        own_part = scatter_bytes(self._communicator, parts, _CHIEF, "alq_hvd.checkpoint.own")
        self._on_every_rank(lambda: self._put_back(whole, own_part, path, new=rank >= ranks), "restored")
        if size != ranks:
            _logger.warning("%s is of %d ranks, this run has %d: it goes on, but not bit for bit",
                            path, ranks, size)  # fmt: skip
        return Restored(step, whole["position"], Path(path), size == ranks)

    def _put_back(self, whole: dict[str, Any], own_part: bytes, path: str, new: bool) -> bytes:
        """Bring what was read into this rank's objects; ``new``: this rank was not there when it was saved."""
        self._require_same_settings(whole["settings"], path)
        own = unpack(own_part, path)
        if own.keys() != {"buffers", "random", *self._own} or whole["shared"].keys() != {"model", *self._shared}:
            raise StateError(
                f"{path}: expected the states of {', '.join(['model', *self._shared, *self._own])}, got "
                f"{', '.join([*whole['shared'], *sorted(own.keys() - {'buffers', 'random'})])}: resume with what it "
                "was saved with"
            )
        try:
            self._model.load_state_dict(whole["shared"]["model"])
            for name, buffer in self._model.named_buffers():
                buffer.copy_(own["buffers"][name])
            for name, part in self._shared.items():
                part.load_state_dict(whole["shared"][name])
            for name, part in self._own.items():
                part.load_state_dict(own[name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise StateError(f"{path} does not fit this program: {error}") from error
        if not new:  # a rank that is new keeps its own generators, to draw what no other rank draws
            random_state.put_back(own["random"])
        return b""

    def _require_same_settings(self, saved: dict[str, Any], path: str) -> None:
        for name in sorted(saved.keys() | self._settings.keys()):
            was, now = saved.get(name), self._settings.get(name)
            if was != now:
                raise StateError(
                    f"{name}: expected {was!r}, with which {path} was saved, got {now!r}: "
                    "use the same options or another directory"
                )

    def _on_every_rank(self, work: Callable[[], bytes], name: str) -> bytes:
        """Let every rank work and return its own result, or raise on all of them when one could not.

        Raises:
            StateError: saying which ranks could not, and why.
        """
        result, complaint, cause = b"", "", None
        try:
            result = work()
        except Exception as error:  # whatever it is: the others wait
            complaint, cause = _tell(error), error
        said = allgather_bytes(self._communicator, complaint.encode(), f"alq_hvd.checkpoint.{name}")
        failed = [f"rank {rank}: {text.decode()}" for rank, text in enumerate(said) if text]
        if failed:
            raise StateError("; ".join(failed)) from cause
        return result

    def _from_chief(self, work: Callable[[], bytes]) -> bytes:
        """Let rank 0 work and give everyone the result, or everyone the same error: no rank waits for a dead one."""
        answer, cause = b"", None
        if self._communicator.rank == _CHIEF:
            try:
                answer = _FINE + work()
            except Exception as error:  # whatever it is: the others wait
                answer, cause = _FAILED + _tell(error).encode(), error
        answer = broadcast_bytes(self._communicator, answer, _CHIEF, "alq_hvd.checkpoint.chief")
        if answer[:1] == _FAILED:
            raise CheckpointError(f"rank {_CHIEF}: {answer[1:].decode()}") from cause
        return answer[1:]


def _require_whole(model: Any) -> None:
    """Refuse a model of which each rank has another part: rank 0's would come back on all."""
    sharded = [name for name, each in model.named_parameters() if hasattr(each, "full_tensor")]  # a DTensor
    if sharded:
        raise StateError(
            f"{sharded[0]}: expected parameters that every rank has whole, got one that is spread over ranks: save the "
            "model with torch.distributed.checkpoint, and the compression's state_dict() beside it"
        )


def _tell(error: Exception) -> str:
    """Return the text of an error for other ranks, with its kind where the text is not one of ours."""
    return str(error) if isinstance(error, AlqError) else f"{type(error).__name__}: {error}"
