"""The ways that the benchmarks of training compare: what a user writes, what is counted, when a loss is reached."""

from __future__ import annotations

import pytest

from benchmarks.time_to_loss import seconds_to
from benchmarks.training.ways import Way


def test_a_way_is_written_as_method_bits_and_flags() -> None:
    assert Way.parse("fp32") == Way("fp32", host="fp32")
    assert Way.parse("alq:3") == Way("alq:3", method="alq", bits=3)
    assert Way.parse("powersgd:4") == Way("powersgd:4", host="powersgd", bits=4)
    both = Way.parse("optimal:2:rotate:feedback")
    assert both.options == {"rotate": True, "error_feedback": True}
    assert Way.parse("eden:1.5:adaptive").bits == 1.5


def test_what_means_no_way_is_refused() -> None:
    for text in ("alq", "fp32:3", "alq:3:fast", "powersgd:4:rotate", "alq:three"):
        with pytest.raises(ValueError, match="expected fp32, fp16, powersgd:RANK or METHOD:BITS|could not convert"):
            Way.parse(text)


def test_bytes_of_the_hosts_own_ways_follow_the_ring() -> None:
    assert Way.parse("fp32").bytes_per_step(None, parameters=1000, ranks=4, steps=7) == 6000
    assert Way.parse("fp16").bytes_per_step(None, parameters=1000, ranks=4, steps=7) == 3000


def test_a_loss_is_reached_between_two_points_of_a_curve_that_may_rise_again() -> None:
    curve = [{"seconds": float(second), "loss": loss} for second, loss in enumerate([4.0, 3.0, 3.5, 2.0])]
    assert seconds_to(3.5, curve) == pytest.approx(0.5)
    assert seconds_to(2.5, curve) == pytest.approx(2.5)
    assert seconds_to(2.0, curve) == pytest.approx(3.0)
