"""How all ranks come to the same new levels: statistics to the leader, one fit, one broadcast."""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass

import numpy as np

from alq_hvd.communicator.base import Communicator, Payload, as_payload
from alq_hvd.errors import LevelsMismatch
from alq_hvd.quantiser.levels import MAXIMUM_BITS, digest_of
from alq_hvd.quantiser.levels_by_width import MOST_PACKED, AnyLevels, LevelsByWidth
from alq_hvd.quantiser.policies.adoption import keep
from alq_hvd.quantiser.policies.base import LevelUpdate, Policy
from alq_hvd.quantiser.statistics import GradientStatistics

LEADER = 0
_logger = logging.getLogger(__name__)
_HEADER = struct.Struct("<4sIIIIdd")
"""magic, refused (0 or 1), version, digest, count of numbers (0: keep the old ones), objective before, and after."""
_MAGIC = b"ALQL"
_FAILURE = b"ALQF"
_REASON_BYTES = 256


@dataclass(frozen=True, slots=True)
class Agreement:
    """Tell what an adaptation came to, the same on every rank.

    Attributes:
        update: the levels to use from the next step on, and why they stay where they do.
        refused: nothing could be fitted, so the fit is still to come; levels that stay because no better ones were
            found are a fit like any other.
        bytes_sent: by this rank.
    """

    update: LevelUpdate
    refused: bool
    bytes_sent: int


def agree(
    communicator: Communicator,
    statistics: GradientStatistics | str,
    policy: Policy,
    current: AnyLevels,
    name: str,
    *,
    again: bool = False,
) -> Agreement:
    """Fit new levels on the leader and adopt them on every rank.

    1. Gather every rank's statistics on the leader, and add them in rank order.
    2. The leader fits. If that fails in any way it announces that the old levels stay, so that no rank hangs.
    3. Broadcast levels, version and digest.
    4. Every rank checks the digest, and that the version follows its own.

    All ranks must agree on: current levels, policy, name.

    Args:
        statistics: of this rank, or why it has none: then no rank adopts anything.
        again: the last try was refused, too, so that a failure needs no second traceback in the log.

    Raises:
        LevelsMismatch: when an announcement is damaged or does not follow this rank's table.
    """
    payload = as_payload(_FAILURE + statistics.encode() if isinstance(statistics, str) else statistics.to_bytes())
    gathered = communicator.gather(payload, LEADER, f"{name}.statistics").wait()
    announcement = _blank(current)
    bytes_sent = 0 if communicator.rank == LEADER else payload.size
    if communicator.rank == LEADER:
        announcement = _write(*_fit(gathered, policy, current, again), current)
        bytes_sent += announcement.size * (communicator.size - 1)
    received = communicator.broadcast(announcement, LEADER, f"{name}.levels").wait()
    return Agreement(*_read(received, current, communicator.rank), bytes_sent)


def _fit(gathered: list[Payload], policy: Policy, current: AnyLevels, again: bool) -> tuple[LevelUpdate, bool]:
    """Return the leader's update and whether it was refused; any failure keeps the current levels and says why."""
    try:
        failures = [payload.tobytes().removeprefix(_FAILURE) for payload in gathered if _is_failure(payload)]
        if failures:
            return keep(current, failures[0].decode(errors="replace")), True
        total = GradientStatistics.from_bytes(gathered[0].tobytes())
        for payload in gathered[1:]:
            total = total + GradientStatistics.from_bytes(payload.tobytes())
        if not total.usable:
            reason = (
                f"statistics cannot be used: {total.coordinates} coordinates, "
                f"{total.non_finite_buckets} buckets with NaN or infinity"
            )
            return keep(current, reason), True
        update = policy.update(total, current)
        if update.objective_after > update.objective_before:
            reason = f"the fit would raise the objective from {update.objective_before:g} to {update.objective_after:g}"
            return LevelUpdate(current, update.objective_before, update.objective_before, reason), True
        return update, False
    except Exception as error:  # whatever went wrong here, the other ranks are waiting for an announcement
        _logger.log(logging.DEBUG if again else logging.ERROR, "fitting levels failed on the leader", exc_info=True)
        return keep(current, f"fitting failed on the leader: {type(error).__name__}: {error}"), True


def _most_numbers(current: AnyLevels) -> int:
    """Return how many numbers, at most, levels of the kind of ``current`` are packed into."""
    most: int = MOST_PACKED if isinstance(current, LevelsByWidth) else 2**MAXIMUM_BITS
    return most


def _blank(current: AnyLevels) -> Payload:
    return np.zeros(_HEADER.size + 4 * _most_numbers(current) + _REASON_BYTES, dtype=np.uint8)


def _is_failure(payload: Payload) -> bool:
    return payload[: len(_FAILURE)].tobytes() == _FAILURE


def _write(update: LevelUpdate, refused: bool, current: AnyLevels) -> Payload:
    announcement = _blank(current)
    levels = update.levels
    replaced = levels != current
    count = len(levels.packed) if replaced else 0
    objectives = update.objective_before, update.objective_after
    _HEADER.pack_into(announcement.data, 0, _MAGIC, refused, levels.version, levels.digest, count, *objectives)
    values = levels.packed[:count].astype("<f4").view(np.uint8)
    announcement[_HEADER.size : _HEADER.size + values.size] = values
    reason = as_payload(update.reason.encode()[:_REASON_BYTES])
    start = announcement.size - _REASON_BYTES
    announcement[start : start + reason.size] = reason
    return announcement


def _read(announcement: Payload, current: AnyLevels, rank: int) -> tuple[LevelUpdate, bool]:
    magic, refused, version, digest, count, before, after = _HEADER.unpack_from(announcement.data)
    most = _most_numbers(current)
    if magic != _MAGIC or refused > 1 or count > most:
        raise LevelsMismatch(
            f"rank {rank}: expected at most {most} levels after {_MAGIC!r} from the leader, "
            f"got {count} after {magic!r}: the bytes were damaged on the way"
        )
    reason = announcement[-_REASON_BYTES:].tobytes().rstrip(b"\0").decode(errors="replace")
    values = announcement[_HEADER.size : _HEADER.size + 4 * count].view("<f4") if count else current.packed
    expected = current.version + bool(count)
    if digest_of(values) != digest or version != expected:
        raise LevelsMismatch(
            f"rank {rank}: expected level table version {expected} with digest {digest:#010x} from the leader, got "
            f"version {version} with digest {digest_of(values):#010x}: the ranks' level histories differ, or the bytes "
            "were damaged; load the same checkpoint on every rank"
        )
    return LevelUpdate(current.unpacked(values, version) if count else current, before, after, reason), bool(refused)
