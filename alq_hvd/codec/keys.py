"""Keys of the counter-based random numbers: no generator, no state, the same bytes on every codec and every rerun."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_CIRCUMSTANCES = struct.Struct("<4sqqqqq")
_NO_RANK = -1
"""Stands for the rank in what all ranks share; no rank has this number."""


class SignKey(NamedTuple):
    """Name one stream of random signs: the words of a ``StreamKey``, for the rotation."""

    first: int = 0
    second: int = 0


class Strata(NamedTuple):
    """Say which part of [0, 1) each uniform number of a rank comes from, so that ranks share it out among them.

    Attributes:
        first, second: key of the permutations that deal out the parts, one an element; the same on all ranks.
        parts: how many, all equal; 1 leaves [0, 1) whole, and ranks independent.
        place: of this rank among those that encode the same elements, below ``parts``.
    """

    first: int = 0
    second: int = 0
    parts: int = 1
    place: int = 0


INDEPENDENT = Strata()


@dataclass(frozen=True, slots=True)
class StreamKey:
    """Name one stream of random numbers, one number an element.

    Attributes:
        first: uint32, added to the element's Weyl number before the first round of the hash.
        second: uint32, added before the second round.
        first_element: index, within the fusion group, of the first element that is encoded with this key.
        own_signs: of the rotation no other rank uses.
        shared_signs: of the rotation that all ranks use for this step, group and shot.
        strata: of [0, 1), that the ranks share out among them.
    """

    first: int
    second: int
    first_element: int = 0
    own_signs: SignKey = field(default=SignKey(), compare=False)
    shared_signs: SignKey = field(default=SignKey(), compare=False)
    strata: Strata = INDEPENDENT

    def at(self, first_element: int) -> StreamKey:
        """Return the same stream, entered at another element: chunks of a group draw what the whole would."""
        return replace(self, first_element=first_element)


def stream_key(*, seed: int, step: int, rank: int, group: int, shot: int, strata: int = 1) -> StreamKey:
    """Return the key for one record.

    No two ranks, steps, groups or shots share a stream, so quantisation errors average out over ranks (spec section
    10, pitfall 12), and a resumed run continues the sequence.

    Args:
        strata: equal parts of [0, 1) of which, at each element, every rank below that number draws from another one.
    """
    first, second = _words(b"ALQK", seed, step, rank, group, shot)
    shared = _words(b"ALQC", seed, step, _NO_RANK, group, shot) if strata > 1 else ()
    return StreamKey(
        first,
        second,
        strata=Strata(*shared, strata, rank) if shared else INDEPENDENT,
        own_signs=SignKey(*_words(b"ALQS", seed, step, rank, group, shot)),
        shared_signs=SignKey(*_words(b"ALQS", seed, step, _NO_RANK, group, shot)),
    )


def random_bits(key: StreamKey | SignKey | Strata, index: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return uint32 of the shape of ``index``: random bits, a hash of each index under two words of key.

    References:
        The rounds are ``lowbias32`` of C. Wellons, "Prospecting for Hash Functions" (2018); the Weyl sequence before
        them and the keys are ours.
    """
    x = index * np.uint32(0x9E3779B9) + np.uint32(key.first)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x += np.uint32(key.second)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x


def _words(purpose: bytes, *circumstances: int) -> tuple[int, int]:
    digest = hashlib.blake2b(_CIRCUMSTANCES.pack(purpose, *circumstances), digest_size=8).digest()
    first, second = struct.unpack("<II", digest)
    return first, second
