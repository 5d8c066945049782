"""The parts of a step add up to its wall-clock time, whatever part of the codec's work overlaps which block."""

from __future__ import annotations

import time

import pytest
from images.timing import PARTS, StepClock


def test_the_parts_add_up_and_the_codec_is_taken_out_of_compute_and_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    codec = {"encode": 5.0, "decode": 6.0, "adapt": 0.0, "exchange": 99.0}
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clock = StepClock(lambda: dict(codec))
    for _ in range(2):
        with clock.step():
            now += 10  # forward and backward, in whose hooks the codec encodes for 2 s
            codec["encode"] += 2
            with clock.exchange():
                now += 7  # of which the codec encodes, decodes and adapts for 1 + 3 + 1 s
                codec["encode"] += 1
                codec["decode"] += 3
                codec["adapt"] += 1
            now += 1
        now += 1000  # between steps: evaluation, not counted
    expected = {"compute": 9.0, "encode": 3.0, "exchange": 2.0, "decode": 3.0, "adapt": 1.0}
    assert clock.last == pytest.approx(expected)
    assert clock.per_step() == pytest.approx(expected)
    assert sum(clock.total.values()) == pytest.approx(2 * 18)


def test_without_a_codec_all_is_compute_and_exchange() -> None:
    clock = StepClock()
    with clock.step(), clock.exchange():
        pass
    assert set(clock.per_step()) == set(PARTS)
    assert clock.last["encode"] == clock.last["decode"] == clock.last["adapt"] == 0
