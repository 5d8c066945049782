"""Keys of the counter-based random numbers: no generator, no state, the same bytes on every codec and every rerun."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

_CIRCUMSTANCES = struct.Struct("<4sqqqqq")


@dataclass(frozen=True, slots=True)
class StreamKey:
    """Name one stream of random numbers, one number an element.

    Attributes:
        first: uint32, added to the element's Weyl number before the first round of the hash.
        second: uint32, added before the second round.
        first_element: index, within the fusion group, of the first element that is encoded with this key.
    """

    first: int
    second: int
    first_element: int = 0

    def at(self, first_element: int) -> StreamKey:
        """Return the same stream, entered at another element: chunks of a group draw what the whole would."""
        return StreamKey(self.first, self.second, first_element)


def stream_key(*, seed: int, step: int, rank: int, group: int, shot: int) -> StreamKey:
    """Return the key for one record.

    No two ranks, steps, groups or shots share a stream, so quantisation errors average out over ranks (spec section
    10, pitfall 12), and a resumed run continues the sequence.
    """
    circumstances = _CIRCUMSTANCES.pack(b"ALQK", seed, step, rank, group, shot)
    digest = hashlib.blake2b(circumstances, digest_size=8).digest()
    first, second = struct.unpack("<II", digest)
    return StreamKey(first, second)
