"""What a communicator is: asynchronous, named collectives of bytes, whatever the bytes mean."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from alq_hvd.communicator import leaving
from alq_hvd.errors import CommunicationTimeout

Payload = npt.NDArray[np.uint8]
Result = TypeVar("Result")
ResultOut = TypeVar("ResultOut", covariant=True)
DEFAULT_TIMEOUT = 600.0
"""Seconds after which an incomplete collective becomes an error instead of a hang."""
SECOND_LANE = (".shot1", ".spread")
"""Ends of the names of collectives that follow another one of the same fusion group, and pass others on their way."""
_SHORTEST_NAP, _LONGEST_NAP = 2e-5, 1e-3
_LARGEST_PIECE = 2**30


class Pending(Protocol[ResultOut]):
    """Represent a collective in flight."""

    def done(self) -> bool:
        """Return whether ``wait`` would return at once."""
        ...

    def wait(self) -> ResultOut:
        """Block until the collective completed, and return what it delivered; call once.

        Raises:
            CommunicationTimeout: when it did not complete in time.
        """
        ...


class Communicator(Protocol):
    """Move bytes between the ranks of one process set.

    Payloads are uint8[n]. All ranks must agree on: the collective, its name, the root; a name may be used again once
    its last use has been waited for. Different names may be started in different orders on different ranks.
    """

    @property
    def rank(self) -> int:
        """Return this process's rank in the process set."""
        ...

    @property
    def size(self) -> int:
        """Return how many ranks the process set has."""
        ...

    @property
    def world(self) -> object:
        """Return what stands for the ranks as they are now: another object when elastic Horovod has made a new world.

        What was started in an older world is lost, even where rank and size have stayed the same.
        """
        ...

    def allgather(self, payload: Payload, name: str) -> Pending[list[Payload]]:
        """Give every rank's payload to every rank, in rank order; lengths must be equal."""
        ...

    def alltoall(self, payloads: Sequence[Payload], name: str, *, alike: bool = False) -> Pending[list[Payload]]:
        """Give ``payloads[r]`` to rank r, and receive one payload from each rank, in rank order.

        Args:
            alike: every rank gives payloads of these lengths, so that no rank has to ask what it will receive.
        """
        ...

    def gather(self, payload: Payload, root: int, name: str) -> Pending[list[Payload]]:
        """Give every rank's payload to ``root``; other ranks receive an empty list."""
        ...

    def broadcast(self, payload: Payload, root: int, name: str) -> Pending[Payload]:
        """Give the payload of ``root`` to every rank; all payloads must have its length."""
        ...


@dataclass(frozen=True, slots=True)
class Polled(Generic[Result]):
    """Wait for a collective by asking, so that a dead rank becomes an error and not a hang.

    Attributes:
        ask: returns whether the collective is complete.
        collect: returns its result once complete.
        describe: what is waited for, for the error's text.
        timeout: seconds.
    """

    ask: Callable[[], bool]
    collect: Callable[[], Result]
    describe: str
    timeout: float

    def done(self) -> bool:
        """Return whether the collective is complete."""
        return self.ask()

    def wait(self) -> Result:
        """Return the result, or raise ``CommunicationTimeout``."""
        deadline = time.monotonic() + self.timeout
        nap = _SHORTEST_NAP
        while not self.ask():
            if time.monotonic() > deadline:
                raise timed_out(self.describe, self.timeout)
            time.sleep(nap)
            nap = min(2 * nap, _LONGEST_NAP)
        return self.collect()


@dataclass(frozen=True, slots=True)
class Arrived(Generic[Result]):
    """What needs no collective, such as payloads that are empty on all ranks."""

    result: Result

    def done(self) -> bool:
        """Return True."""
        return True

    def wait(self) -> Result:
        """Return the result."""
        return self.result


def timed_out(what: str, timeout: float, cause: str = "") -> CommunicationTimeout:
    """Return the error for a collective that did not complete, and see to it that it can end the program.

    Args:
        what: is waited for, on which rank.
        timeout: seconds.
        cause: what the transport says.
    """
    leaving.in_time()
    return CommunicationTimeout(
        f"{what}: not complete after {timeout:g} s{cause and f' or given up ({cause})'}. A rank died, left the loop "
        "early, or was started without this compression: look at the other ranks' logs; raise `timeout` if they were "
        "only slow"
    )


def as_payload(data: bytes) -> Payload:
    """Return ``data`` as uint8[len(data)]."""
    return np.frombuffer(data, dtype=np.uint8)


def allgather_bytes(communicator: Communicator, data: bytes, name: str) -> list[bytes]:
    """Give every rank's ``data``, of any length, to every rank, in rank order; blocks.

    1. All-gather the lengths. 2. All-gather the data, padded to the longest.
    """
    lengths = _lengths(communicator, data, name)
    padded = as_payload(data.ljust(max(lengths), b"\0"))
    received = communicator.allgather(padded, f"{name}.data").wait()
    return [raw[:length].tobytes() for raw, length in zip(received, lengths, strict=True)]


def gather_bytes(communicator: Communicator, data: bytes, root: int, name: str) -> list[bytes]:
    """Give every rank's ``data``, of any length, to ``root``, in rank order; other ranks get an empty list; blocks.

    1. All-gather the lengths. 2. Gather the data, in pieces, because MPI counts the bytes of all ranks in 32 bits.
    """
    longest = max(_lengths(communicator, data, name))
    own, step = as_payload(data), _LARGEST_PIECE // communicator.size
    pieces = [
        communicator.gather(own[start : start + step], root, f"{name}.data").wait() for start in range(0, longest, step)
    ]
    ranks = range(communicator.size if communicator.rank == root else 0)
    return [b"".join(piece[rank].tobytes() for piece in pieces) for rank in ranks]


def scatter_bytes(communicator: Communicator, parts: Sequence[bytes], root: int, name: str) -> bytes:
    """Give rank r the part ``parts[r]``, of any length, of ``root``; what other ranks pass is ignored; blocks.

    1. Broadcast the lengths. 2. All-to-all, to which only the root adds, in pieces as in ``gather_bytes``.
    """
    own = b",".join(str(len(part)).encode() for part in parts)
    lengths = [int(length) for length in broadcast_bytes(communicator, own, root, f"{name}.lengths").split(b",")]
    step, at_root = _LARGEST_PIECE // communicator.size, communicator.rank == root
    payloads = [as_payload(parts[rank] if at_root else b"") for rank in range(communicator.size)]
    received = []
    for start in range(0, max(lengths), step):
        pieces = [payload[start : start + step] for payload in payloads]
        received.append(communicator.alltoall(pieces, f"{name}.data").wait()[root].tobytes())
    return b"".join(received)


def broadcast_bytes(communicator: Communicator, data: bytes, root: int, name: str) -> bytes:
    """Give ``data`` of ``root``, of any length, to every rank; what other ranks pass is ignored; blocks.

    1. Broadcast the length. 2. Broadcast the data, in pieces, because MPI counts bytes in 32 bits.
    """
    own_length = np.array([len(data)], dtype="<i8").view(np.uint8)
    length = int(communicator.broadcast(own_length, root, f"{name}.length").wait().view("<i8")[0])
    own = as_payload(data) if communicator.rank == root else np.zeros(length, dtype=np.uint8)
    pieces = []
    for start in range(0, length, _LARGEST_PIECE):
        piece = own[start : start + _LARGEST_PIECE]
        pieces.append(communicator.broadcast(piece, root, f"{name}.data").wait().tobytes())
    return b"".join(pieces)


def _lengths(communicator: Communicator, data: bytes, name: str) -> list[int]:
    """Return how long every rank's ``data`` is, in rank order."""
    own_length = np.array([len(data)], dtype="<i8").view(np.uint8)
    return [int(raw.view("<i8")[0]) for raw in communicator.allgather(own_length, f"{name}.length").wait()]
