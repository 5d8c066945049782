"""A signal to any one rank stops all of them after the same step."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from alq_hvd.checkpoint import PreemptionGuard
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from tests.support.cases import each
from tests.support.exchanging import Watched

BOUNDARIES = 10


@each("raised_at", range(BOUNDARIES))
@each("size", [2, 3])
def test_all_ranks_stop_after_the_same_step_soon_after_one_was_asked(size: int, raised_at: int) -> None:
    def program(ranks: LoopbackCommunicator) -> int | None:
        # Handlers belong to the main thread; here ranks are threads, so the flag is raised by hand.
        guard = PreemptionGuard(signals=(), communicator=ranks)
        with guard:
            for boundary in range(BOUNDARIES):
                if ranks.rank == size - 1 and boundary == raised_at:
                    guard.received = signal.SIGUSR1
                if guard.stop_agreed():
                    return boundary
        return None

    stopped = LoopbackWorld(size, timeout=20).run(program)
    assert set(stopped) == {raised_at + 1 if raised_at + 1 < BOUNDARIES else None}


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_real_signal_is_taken_inside_and_left_alone_outside(number: signal.Signals) -> None:
    assert threading.current_thread() is threading.main_thread()
    before = [signal.getsignal(each) for each in (signal.SIGUSR1, signal.SIGTERM)]
    world = LoopbackWorld(1)
    with PreemptionGuard(communicator=LoopbackCommunicator(world, 0)) as guard:
        assert not guard.stop_agreed()
        os.kill(os.getpid(), number)
        assert guard.stop_agreed()
        assert guard.received == number
    assert [signal.getsignal(each) for each in (signal.SIGUSR1, signal.SIGTERM)] == before


def test_a_question_that_an_older_world_was_asked_is_dropped() -> None:
    """Two ranks have asked; their world ends, and in the next one only one of them and a new rank are left."""

    def asks(ranks: LoopbackCommunicator) -> tuple[PreemptionGuard, Watched]:
        place = Watched(ranks)
        guard = PreemptionGuard(signals=(), communicator=place)
        guard.received = signal.SIGUSR1 if ranks.rank == 1 else None  # which the world does not live to answer
        assert not guard.stop_agreed()
        return guard, place

    survivor, _ = LoopbackWorld(2, timeout=20).run(asks)

    def answers(ranks: LoopbackCommunicator) -> list[bool]:
        guard, place = survivor if ranks.rank == 0 else (PreemptionGuard((), ranks), ranks)
        if isinstance(place, Watched):
            place.inner = ranks
        return [guard.stop_agreed() for _ in range(3)]

    assert LoopbackWorld(2, timeout=20).run(answers) == [[False] * 3] * 2


def test_an_error_inside_is_not_held_up_by_the_open_question() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        with PreemptionGuard(signals=(), communicator=ranks) as guard:
            guard.stop_agreed()
            if ranks.rank == 1:
                raise ZeroDivisionError
            guard.stop_agreed()

    with pytest.raises(ZeroDivisionError):
        LoopbackWorld(2, timeout=20).run(program)
