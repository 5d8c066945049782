"""Error feedback: what this rank's records have lost so far, kept to be added to the next ones."""

from __future__ import annotations

import logging
import math
from dataclasses import astuple, dataclass, field
from typing import Any

from alq_hvd import backends
from alq_hvd.codec.arrays import Arrays, B, HostArrays, V
from alq_hvd.errors import ConfigurationError

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
    values: Any  # of the memory of `arrays`, which each group has its own of
    arrays: Arrays | None  # None: loaded, of NumPy, and not yet in the memory of the codec


@dataclass(slots=True)
class Residuals:
    """Hold, for every fusion group and shot, what the codec writes there: float32, one for each coordinate.

    What a record lacks is added to the next record of the same coordinates, so that nothing is lost for good: after
    any number of steps, the sum of what was applied differs from the sum of what was meant by what is held here. In
    the second shot of a two-shot each rank keeps what its own chunk of the sum lacks.

    Attributes:
        owner: whose they are.
        guarded: they are copied before a step changes them, in case the step is not applied.

    References:
        Seide et al., 1-Bit Stochastic Gradient Descent, Interspeech 2014. Karimireddy et al., Error Feedback Fixes
        SignSGD, ICML 2019 (a contraction is all it takes). Tang et al., DoubleSqueeze, ICML 2019 (both hops).
    """

    owner: Owner | None = None
    _kept: dict[tuple[int, int], _Kept] = field(default_factory=dict)
    guarded: bool = False
    _before: dict[tuple[int, int], _Kept] = field(default_factory=dict)
    _taken: set[tuple[int, int]] = field(default_factory=set)
    _scale: float | None = None
    _owed: bool = False

    def of(self, group: int, shot: int, start: int, elements: int, arrays: Arrays[V, B]) -> V:
        """Return float32[elements] for the values of ``group`` from ``start`` on: zeros where nothing is held yet."""
        kept = self._kept.get((group, shot))
        if kept is None or kept.start != start or len(kept.values) != elements:
            kept = _Kept(start, arrays.zeros(elements), arrays)
        elif kept.arrays is None:
            kept = _Kept(start, arrays.copied(kept.values), arrays)
        self._kept[group, shot] = kept
        if self.guarded and (group, shot) not in self._taken:
            self._copy((group, shot), kept, arrays)
        values: V = kept.values
        return values

    def begin_step(self, scale: float | None) -> None:
        """Start a step whose gradients are multiplied by ``scale``, when somebody knows.

        Residuals of another scale follow it. A scale that has fallen means that the last step was not applied.
        """
        if scale is not None and self._scale is not None and scale != self._scale:
            if scale < self._scale:
                self.take_back()
            self.rescale(scale / self._scale)
        self._scale = scale if scale is not None else self._scale
        self._taken.clear()
        self._owed = bool(self._kept)

    def take_back(self) -> bool:
        """Return to what was held before the last step, which is not applied; return whether nothing was lost.

        Without a copy nothing is held afterwards: what is there now is what records lack that nobody applies. What had
        been lost before stays lost this once, and from then on there are copies.
        """
        nothing_lost = self.guarded or not self._owed
        if not self.guarded:
            self._kept = {}
        for place in self._taken:
            self._kept[place], self._before[place] = self._before[place], self._kept[place]
        self._taken.clear()
        self.guarded = True
        return nothing_lost

    def rescale(self, factor: float) -> None:
        """Follow gradients that are multiplied by ``factor`` from now on.

        Raises:
            ConfigurationError: ``factor`` is not positive and finite.
        """
        if not (math.isfinite(factor) and factor > 0):
            raise ConfigurationError(f"scale: expected a positive, finite ratio of scales, got {factor!r}")
        for kept in self._kept.values():
            (kept.arrays or HostArrays()).multiply(kept.values, factor)

    def _copy(self, place: tuple[int, int], kept: _Kept, arrays: Arrays) -> None:
        before = self._before.get(place)
        if before is None or len(before.values) != len(kept.values):
            before = _Kept(kept.start, arrays.zeros(len(kept.values)), arrays)
        arrays.overwrite(before.values, kept.values)
        self._before[place] = _Kept(kept.start, before.values, arrays)
        self._taken.add(place)

    def drop(self, shot: int) -> None:
        """Forget what the records of ``shot`` have lost."""
        self._kept = {place: kept for place, kept in self._kept.items() if place[1] != shot}
        self._taken = {place for place in self._taken if place[1] != shot}

    def belong_to(self, owner: Owner) -> None:
        """Say to whom they belong from now on; what belonged to another rank, world or plan is dropped."""
        if self.owner not in (None, owner) and self._kept:
            _logger.warning(
                "rank %d of %d: residuals of error feedback were kept on rank %d of %d with %s, or for other fusion "
                "groups: they are dropped, and what records had lost stays lost",
                *(owner.rank, owner.ranks, self.owner.rank, self.owner.ranks, self.owner.exchange),
            )
            self._kept, self._taken = {}, set()
        self.owner = owner

    def state_dict(self) -> dict[str, Any]:
        """Return them as plain values and tensors of the host."""
        torch, entries = backends.torch(), []
        for (group, shot), kept in sorted(self._kept.items()):
            values = kept.values.copy() if kept.arrays is None else kept.arrays.on_host(kept.values)
            entries.append({"group": group, "shot": shot, "start": kept.start, "values": torch.from_numpy(values)})
        owner = self.owner and list(astuple(self.owner))
        return {"owner": owner, "entries": entries, "scale": self._scale, "guarded": self.guarded}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Residuals:
        """Return what ``state_dict`` was taken of."""
        kept = {
            (entry["group"], entry["shot"]): _Kept(entry["start"], entry["values"].cpu().numpy().copy(), None)
            for entry in state["entries"]
        }
        # States of versions that knew of no scale have neither.
        own = cls(state["owner"] and Owner(*state["owner"]), kept, state.get("guarded", False))
        own._scale = state.get("scale")
        return own
