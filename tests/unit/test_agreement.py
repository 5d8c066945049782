"""Statistics to the leader, one fit, one broadcast, adoption by all: and nobody hangs when the leader fails."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alq_hvd.communicator.base import Payload, Pending
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.engine.adaptation.agreement import agree
from alq_hvd.errors import LevelsMismatch
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.policies.base import LevelUpdate
from alq_hvd.quantiser.statistics import GradientStatistics
from tests.support.cases import each

CURRENT = Levels(np.array([-1, -0.5, 0.5, 1], dtype=np.float32), version=4)


@dataclass(frozen=True)
class CountingPolicy:
    """Put a level where the number of coordinates says, so that a test sees whose statistics arrived."""

    adapts: bool = True
    weight_exponent: int = 2

    def update(self, statistics: GradientStatistics, current: Levels) -> LevelUpdate:
        inner = statistics.coordinates / 1000
        return LevelUpdate(current.next_version(np.array([-1, -inner, inner, 1])), 2.0, 1.0)


@dataclass(frozen=True)
class BrokenPolicy(CountingPolicy):
    def update(self, statistics: GradientStatistics, current: Levels) -> LevelUpdate:
        raise FloatingPointError("no density here")


@dataclass(frozen=True)
class WorseningPolicy(CountingPolicy):
    def update(self, statistics: GradientStatistics, current: Levels) -> LevelUpdate:
        return LevelUpdate(current.next_version(np.array([-1.0, 0.0, 1.0])), 1.0, 1.5)


def gradients(rank: int, value: float = 0.1) -> GradientStatistics:
    return GradientStatistics.from_normalised(np.full((1, 10 * (rank + 1)), value, dtype=np.float32), [2.0])


def run(
    policy: CountingPolicy, size: int = 4, bad: dict[int, GradientStatistics | str] | None = None
) -> list[tuple[LevelUpdate, bool]]:
    """Return the update of every rank and whether the fit was refused; ``bad`` ranks hand over what it says."""

    def program(ranks: LoopbackCommunicator) -> tuple[LevelUpdate, bool]:
        agreed = agree(ranks, (bad or {}).get(ranks.rank, gradients(ranks.rank)), policy, CURRENT, "test")
        return agreed.update, agreed.refused

    return LoopbackWorld(size).run(program)


def test_every_rank_adopts_what_the_leader_fitted_to_the_statistics_of_all() -> None:
    updates = run(CountingPolicy())
    expected = np.array([-1, -0.1, 0.1, 1], dtype=np.float32)  # 10 + 20 + 30 + 40 coordinates
    for update, refused in updates:
        assert not refused
        assert np.array_equal(update.levels.values, expected)
        assert update.levels.version == 5
        assert (update.objective_before, update.objective_after) == (2.0, 1.0)


@dataclass(frozen=True)
class ContentPolicy(CountingPolicy):
    """Find no better levels than the current ones."""

    def update(self, statistics: GradientStatistics, current: Levels) -> LevelUpdate:
        return LevelUpdate(current, 1.0, 1.0, "kept the levels: no better ones were found")


NAN = GradientStatistics.from_normalised(np.zeros((1, 5), np.float32), [np.nan])
REFUSALS: dict[str, tuple[CountingPolicy, dict[int, GradientStatistics | str], str]] = {
    "the leader fails": (BrokenPolicy(), {}, "fitting failed on the leader: FloatingPointError: no density here"),
    "a worse table": (WorseningPolicy(), {}, "the fit would raise the objective from 1 to 1.5"),
    "NaN on one rank": (CountingPolicy(), {2: gradients(2) + NAN}, "1 buckets with NaN or infinity"),
    "NaN on the leader": (CountingPolicy(), {0: NAN}, "1 buckets with NaN or infinity"),
    "nothing anywhere": (CountingPolicy(), dict.fromkeys(range(4), GradientStatistics.empty(2)), "0 coordinates"),
    "no samples on one rank": (CountingPolicy(), {3: "rank 3: no data"}, "rank 3: no data"),
    "nor on the leader": (CountingPolicy(), {0: "rank 0: no data", 1: "rank 1: neither"}, "rank 0: no data"),
    "other statistics on one rank": (CountingPolicy(), {1: GradientStatistics.empty(0)}, "cannot add statistics"),
}


def test_a_fit_that_can_not_be_done_is_refused_on_all_ranks_alike() -> None:
    for name, (policy, bad, reason) in REFUSALS.items():
        for update, refused in run(policy, bad=bad):
            assert refused, name
            assert update.levels == CURRENT, name
            assert reason in update.reason, name


def test_levels_that_stay_because_none_are_better_are_no_refusal() -> None:
    for update, refused in run(ContentPolicy()):
        assert not refused
        assert update.levels == CURRENT


@dataclass
class Tampering:
    """Pass everything on, but damage what a broadcast delivers to rank 1."""

    inner: LoopbackCommunicator
    position: int

    @property
    def rank(self) -> int:
        return self.inner.rank

    @property
    def size(self) -> int:
        return self.inner.size

    def gather(self, payload: Payload, root: int, name: str) -> Pending[list[Payload]]:
        return self.inner.gather(payload, root, name)

    def broadcast(self, payload: Payload, root: int, name: str) -> Pending[Payload]:
        received = self.inner.broadcast(payload, root, name).wait().copy()
        if self.rank == 1:
            received[self.position] ^= 0x40

        class Done:
            def done(self) -> bool:
                return True

            def wait(self) -> Payload:
                return received

        return Done()


@each("position", [0, 4, 5, 8, 12, 16, 45])
def test_a_damaged_announcement_is_refused_by_the_rank_that_got_it(position: int) -> None:
    def program(ranks: LoopbackCommunicator) -> str:
        try:
            agree(Tampering(ranks, position), gradients(ranks.rank), CountingPolicy(), CURRENT, "test")  # type: ignore[arg-type]
        except LevelsMismatch as error:
            return str(error)
        return ""

    first, second = LoopbackWorld(2).run(program)
    assert first == ""
    assert second.startswith("rank 1: expected")


def test_a_rank_with_another_history_of_levels_refuses() -> None:
    def program(ranks: LoopbackCommunicator) -> bool:
        own = CURRENT if ranks.rank != 1 else Levels(CURRENT.values, version=3)
        try:
            agree(ranks, gradients(ranks.rank), CountingPolicy(), own, "test")
        except LevelsMismatch:
            return False
        return True

    assert LoopbackWorld(3).run(program) == [True, False, True]
