"""How ranks find out, before the first payload, that they were started with the same options and model."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from alq_hvd.communicator.base import Communicator, allgather_bytes
from alq_hvd.errors import ConfigurationMismatch
from alq_hvd.quantiser import record

OWN_CHANNEL = "levels_over_own_channel"


def agree_on_configuration(communicator: Communicator, own: dict[str, Any], name: str) -> dict[str, Any]:
    """Exchange what each rank was started with, and return what they share.

    Every rank learns of every difference, so all of them stop with the same message, which names the option, both
    values and both ranks. ``OWN_CHANNEL`` is no demand but an ability: it becomes true when every rank has it.

    Raises:
        ConfigurationMismatch: when anything else differs.
    """
    mine = {"wire_format": record.VERSION, "world_size": communicator.size, **own}
    gathered = allgather_bytes(communicator, json.dumps(mine, default=str).encode(), name)
    everyone = [json.loads(raw) for raw in gathered]
    abilities = [configuration.pop(OWN_CHANNEL, False) for configuration in everyone]
    for rank, configuration in enumerate(everyone):
        difference = _first_difference(everyone[0], configuration)
        if difference:
            option, expected, got = difference
            raise ConfigurationMismatch(
                f"{option}: rank 0 has {expected}, rank {rank} has {got} (seen on rank {communicator.rank}): "
                "start every rank with the same options, model and version of alq_hvd, and load the same state on "
                "every rank"
            )
    return {**everyone[0], OWN_CHANNEL: all(abilities)}


def fingerprint(shared: dict[str, Any]) -> int:
    """Return 16 bits that change with anything the ranks share."""
    text = json.dumps(shared, sort_keys=True, default=str).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=2).digest(), "little")


def _first_difference(one: dict[str, Any], other: dict[str, Any]) -> tuple[str, Any, Any] | None:
    for key in dict.fromkeys([*one, *other]):  # in the order given: what differs first explains the rest
        left, right = one.get(key, "nothing"), other.get(key, "nothing")
        if left == right:
            continue
        if isinstance(left, list) and isinstance(right, list):
            if len(left) != len(right):
                return f"number of {key}", len(left), len(right)
            place = next(i for i, (a, b) in enumerate(zip(left, right, strict=True)) if a != b)
            return f"{key}[{place}]", left[place], right[place]
        return key, left, right
    return None
