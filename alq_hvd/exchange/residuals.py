"""Error feedback: what this rank's records have lost so far, kept to be added to the next ones."""

from __future__ import annotations

import logging
from dataclasses import astuple, dataclass, field
from typing import Any

from alq_hvd import backends
from alq_hvd.codec.arrays import Arrays, Values

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Owner:
    """Say whose residuals they are: elsewhere they would be added to numbers that they are no part of.

    Attributes:
        rank, ranks: place in the world.
        plan: fingerprint of the fusion groups.
        exchange: that quantises them.
    """

    rank: int
    ranks: int
    plan: int
    exchange: str


@dataclass(frozen=True, slots=True)
class _Kept:
    start: int
    values: Values
    arrays: Arrays | None  # None: loaded, of NumPy, and not yet in the memory of the codec


@dataclass(slots=True)
class Residuals:
    """Hold, for every fusion group and shot, what the codec writes there: float32, one for each coordinate.

    What a record lacks is added to the next record of the same coordinates, so that nothing is lost for good: after
    any number of steps, the sum of what was applied differs from the sum of what was meant by what is held here. In
    the second shot of a two-shot each rank keeps what its own chunk of the sum lacks.

    References:
        Seide et al., 1-Bit Stochastic Gradient Descent, Interspeech 2014. Karimireddy et al., Error Feedback Fixes
        SignSGD, ICML 2019 (a contraction is all it takes). Tang et al., DoubleSqueeze, ICML 2019 (both hops).
    """

    owner: Owner | None = None
    _kept: dict[tuple[int, int], _Kept] = field(default_factory=dict)

    def of(self, group: int, shot: int, start: int, elements: int, arrays: Arrays) -> Values:
        """Return float32[elements] for the values of ``group`` from ``start`` on: zeros where nothing is held yet."""
        kept = self._kept.get((group, shot))
        if kept is None or kept.start != start or len(kept.values) != elements:
            kept = _Kept(start, arrays.zeros(elements), arrays)
        elif kept.arrays is None:
            kept = _Kept(start, arrays.copied(kept.values), arrays)
        self._kept[group, shot] = kept
        return kept.values

    def drop(self, shot: int) -> None:
        """Forget what the records of ``shot`` have lost."""
        self._kept = {place: kept for place, kept in self._kept.items() if place[1] != shot}

    def belong_to(self, owner: Owner) -> None:
        """Say to whom they belong from now on; what belonged to another rank, world or plan is dropped."""
        if self.owner not in (None, owner) and self._kept:
            _logger.warning(
                "rank %d of %d: residuals of error feedback were kept on rank %d of %d with %s, or for other fusion "
                "groups: they are dropped, and what records had lost stays lost",
                *(owner.rank, owner.ranks, self.owner.rank, self.owner.ranks, self.owner.exchange),
            )
            self._kept = {}
        self.owner = owner

    def state_dict(self) -> dict[str, Any]:
        """Return them as plain values and tensors of the host."""
        torch, entries = backends.torch(), []
        for (group, shot), kept in sorted(self._kept.items()):
            values = kept.values.copy() if kept.arrays is None else kept.arrays.on_host(kept.values)
            entries.append({"group": group, "shot": shot, "start": kept.start, "values": torch.from_numpy(values)})
        owner = self.owner and list(astuple(self.owner))
        return {"owner": owner, "entries": entries}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Residuals:
        """Return what ``state_dict`` was taken of."""
        kept = {
            (entry["group"], entry["shot"]): _Kept(entry["start"], entry["values"].cpu().numpy().copy(), None)
            for entry in state["entries"]
        }
        return cls(state["owner"] and Owner(*state["owner"]), kept)
