"""Error feedback: what a record loses is sent later, on every exchange and codec, across checkpoints and worlds."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pytest
import torch

import alq_hvd
from alq_hvd.checkpoint.plain import pack, unpack
from alq_hvd.codec.choice import choose_codec
from alq_hvd.codec.keys import stream_key
from alq_hvd.codec.native import NativeCodec, instruction_sets
from alq_hvd.codec.reference import ReferenceCodec
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.engine.aggregator import Aggregator
from alq_hvd.engine.options import Options
from alq_hvd.engine.transport import PlainTransport
from alq_hvd.errors import ConfigurationMismatch, StateError, UnsupportedTensor
from alq_hvd.quantiser.record import RecordLayout, Stamp
from tests.support.cases import each
from tests.support.exchanging import gradient
from tests.support.grid import grid
from tests.support.stand_in import reduce_gradients

OPTIONS: dict[str, Any] = {"method": "qsgdinf", "bits": 3, "bucket_size": 64, "schedule": [1], "error_feedback": True}
KEY = stream_key(seed=1, step=2, rank=3, group=4, shot=0)
CODECS = [ReferenceCodec(), *(NativeCodec(name, threads) for name in instruction_sets() for threads in (1, 3))]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"clip": 1.5},
    "Euclidean": {"method": "alq"},
    "rotated": {"rotate": True},
    "eden": {"method": "eden"},
}


@each("kind", KINDS)
def test_a_record_is_of_values_and_residual_and_what_it_lacks_is_kept(kind: str) -> None:
    """Elements enough for several strips and threads; a bucket with NaN keeps nothing, one that is clipped all."""
    for bucket_size in (33, 1000, 1024, 8192):
        options = Options(**{**OPTIONS, "bucket_size": bucket_size, **KINDS[kind]})
        levels, layout = options.resolve().initial(3), RecordLayout(140_001, options.quantiser())
        stamp, random = Stamp(levels.digest, 2, 3), np.random.default_rng(0)
        values, residual = (random.standard_t(3, layout.elements).astype(np.float32) for _ in range(2))
        values[[5, 100_000]] = np.nan, np.inf
        whole = values + residual
        expected = ReferenceCodec().encode(whole, layout, levels, KEY, stamp)
        lacks = whole - ReferenceCodec().decode_sum([expected], layout, levels, [stamp], 1.0)
        damaged = np.isin(np.arange(layout.elements) // bucket_size, [5 // bucket_size, 100_000 // bucket_size])
        assert np.array_equal(~np.isfinite(lacks), damaged), bucket_size
        for codec in CODECS:
            case, kept, given = (codec, bucket_size), residual.copy(), values.copy()
            record = codec.encode(given, layout, levels, KEY, stamp, kept)
            assert np.array_equal(given, values, equal_nan=True), case
            assert np.array_equal(record, expected), case
            assert np.array_equal(kept, np.where(damaged, 0, lacks)), case


@pytest.mark.parametrize("codec", [ReferenceCodec(), NativeCodec()], ids=lambda codec: codec.name)
def test_a_residual_of_another_length_or_type_is_refused(codec: Any) -> None:
    options = Options(**OPTIONS)
    levels, layout = options.resolve().initial(3), RecordLayout(100, options.quantiser())
    for residual in (np.zeros(99, np.float32), np.zeros(100), np.zeros(200, np.float32)[::2]):
        with pytest.raises(UnsupportedTensor, match=r"expected contiguous float32\[100\]"):
            codec.encode(np.ones(100, np.float32), layout, levels, KEY, Stamp(levels.digest, 2, 3), residual)


def aggregator(ranks: Any, **options: Any) -> Aggregator:
    made = Aggregator(Options(**{**OPTIONS, **options}), choose_codec("auto"))
    made.connect(PlainTransport(ranks), ranks)
    return made


def steps(of: Aggregator, rank: int, count: range, elements: int = 1000) -> list[np.ndarray]:
    """Return the sums of two groups over the ranks, one after the other, at every step of ``count``."""
    sums = []
    for step in count:
        for group in (0, 1):
            of.start(group, gradient(rank, elements, step=2 * step + group))
        sums.append(np.concatenate([of.result(group, 1.0).copy() for group in (0, 1)]))
        of.end_step()
    return sums


def owed(of: Aggregator) -> np.ndarray:
    """Return what a rank has kept, where it belongs among the coordinates of both groups."""
    total = np.zeros(2000)
    for entry in of.state_dict()["residuals"]["entries"]:
        start = 1000 * entry["group"] + entry["start"]
        total[start : start + len(entry["values"])] += entry["values"].numpy()
    return total


@each("options", [{}, {"method": "eden"}, {"clip": 1.5}])
@each(("exchange", "grid_of"), [("allgather", (1, 3)), ("two_shot", (1, 3)), ("hierarchical", (3, 2))])
def test_nothing_is_lost_for_good(exchange: str, grid_of: tuple[int, int], options: dict[str, Any]) -> None:
    """All that was given in is what came out and what is still kept, on all ranks and in both shots together."""
    nodes, per_node = grid_of
    placed = grid(nodes, per_node) if exchange == "hierarchical" else lambda ranks: ranks

    def program(ranks: LoopbackCommunicator) -> tuple[np.ndarray, np.ndarray]:
        own = aggregator(placed(ranks), exchange=exchange, **options)
        return np.sum(steps(own, ranks.rank, range(6)), axis=0, dtype=np.float64), owed(own)

    done = LoopbackWorld(nodes * per_node).run(program)
    given = sum(
        np.concatenate([gradient(rank, 1000, step=2 * step + group) for group in (0, 1)]).astype(np.float64)
        for step in range(6)
        for rank in range(nodes * per_node)
    )
    for came_out, _ in done:
        np.testing.assert_allclose(came_out + sum(kept for _, kept in done), given, atol=2e-4)
    assert np.abs(sum(kept for _, kept in done)).max() > 0.1  # or nothing had been lost at all


def test_the_mean_of_many_steps_is_better_by_the_number_of_steps_and_not_by_its_root() -> None:
    def mean_error(count: int, error_feedback: bool) -> float:
        def program(ranks: LoopbackCommunicator) -> np.ndarray:
            own = aggregator(ranks, error_feedback=error_feedback)
            values, total = gradient(ranks.rank, 2000), np.zeros(2000)
            for _ in range(count):
                own.start(0, values.copy())
                total += own.result(0, 1.0)
                own.end_step()
            return total / count

        exact = sum(gradient(rank, 2000).astype(np.float64) for rank in range(2))
        return float(np.square(LoopbackWorld(2).run(program)[0] - exact).mean())

    assert mean_error(5, True) / mean_error(80, True) == pytest.approx(16**2, rel=0.3)
    assert mean_error(5, False) / mean_error(80, False) == pytest.approx(16, rel=0.3)


@pytest.mark.parametrize("exchange", ["allgather", "two_shot"])
def test_a_resumed_run_continues_bit_for_bit(exchange: str) -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        own = aggregator(ranks, exchange=exchange)
        own.lay_out(77)
        steps(own, ranks.rank, range(3))
        state = pack(own.state_dict(), "state")
        expected = steps(own, ranks.rank, range(3, 6))
        resumed = aggregator(ranks, exchange=exchange)
        resumed.load_state_dict(unpack(state, "state"))
        resumed.lay_out(77)
        assert all(
            np.array_equal(*pair) for pair in zip(steps(resumed, ranks.rank, range(3, 6)), expected, strict=True)
        )
        assert pack(resumed.state_dict(), "state") == pack(own.state_dict(), "state")

    LoopbackWorld(3).run(program)


def test_residuals_of_another_world_or_of_other_groups_are_dropped_and_said_to_be(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def first(ranks: LoopbackCommunicator) -> dict[str, Any]:
        own = aggregator(ranks)
        own.lay_out(77)
        steps(own, ranks.rank, range(2))
        return own.state_dict()

    states = LoopbackWorld(2).run(first)

    def second(ranks: LoopbackCommunicator, plan: int, *, late: bool = False, **options: Any) -> int:
        own = aggregator(ranks, **options)
        if late:
            own.lay_out(plan)
        own.load_state_dict(states[0])
        if not late:
            own.lay_out(plan)
        return len(own.state_dict()["residuals"]["entries"])

    assert LoopbackWorld(2).run(lambda ranks: second(ranks, 77)) == [2, 0]
    assert "rank 1 of 2: residuals of error feedback were kept on rank 0 of 2 with allgather, or" in caplog.text
    assert LoopbackWorld(2).run(lambda ranks: second(ranks, 77, late=True)) == [2, 0]
    assert LoopbackWorld(3).run(lambda ranks: second(ranks, 77)) == [0, 0, 0]
    assert LoopbackWorld(2).run(lambda ranks: second(ranks, 78)) == [0, 0]
    assert LoopbackWorld(2).run(lambda ranks: second(ranks, 77, exchange="two_shot")) == [0, 0]


def test_a_state_with_error_feedback_is_not_taken_without_and_the_other_way_round() -> None:
    with_feedback, without = (Aggregator(Options(**{**OPTIONS, "error_feedback": on}), choose_codec("auto"))
                              for on in (True, False))  # fmt: skip
    with pytest.raises(StateError, match="error_feedback: expected False, got a state with True"):
        without.load_state_dict(with_feedback.state_dict())
    with pytest.raises(StateError, match="error_feedback: expected True, got a state with False"):
        with_feedback.load_state_dict(json.loads(json.dumps(without.state_dict())))


def test_ranks_that_differ_in_it_are_stopped() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameter = torch.nn.Parameter(torch.zeros(2000))
        parameter.grad = torch.ones(2000)
        compression = alq_hvd.Compression.alq(
            error_feedback=ranks.rank == 1, communicator=ranks, named_parameters=[("weight", parameter)]
        )
        with pytest.raises(ConfigurationMismatch, match="error_feedback: rank 0 has False, rank 1 has True"):
            reduce_gradients(ranks, compression, [("weight", parameter.grad)])

    LoopbackWorld(2).run(program)


BAD: dict[str, Any] = {"method": "qsgd", "bits": 2, "bucket_size": 1000, "schedule": []}


def test_it_pauses_while_records_lose_more_than_they_carry(caplog: pytest.LogCaptureFixture) -> None:
    """Residuals would grow a thousandfold in ten steps: they are dropped, and the gradient goes out as without them."""

    def program(ranks: LoopbackCommunicator, error_feedback: bool) -> list[np.ndarray]:
        own = aggregator(ranks, **{**BAD, "error_feedback": error_feedback})
        sums = steps(own, ranks.rank, range(10))
        assert not error_feedback or own.state_dict()["residuals"]["entries"] == []
        return sums

    paused, without = (LoopbackWorld(2).run(lambda ranks, on=on: program(ranks, on)) for on in (True, False))
    assert np.array_equal(paused[0], without[0])
    assert (
        "rank 1, step 0: error feedback pauses: expected records that lose less than they carry, those" in caplog.text
    )
    assert "Use more bits, rotate=True" in caplog.text


def test_it_goes_on_once_levels_are_fitted_that_lose_less(caplog: pytest.LogCaptureFixture) -> None:
    """The levels that alq begins with lose more than they carry of these gradients, the fitted ones do not."""
    caplog.set_level(logging.INFO)

    def program(ranks: LoopbackCommunicator) -> list[int]:
        own = aggregator(ranks, method="alq", bits=3, bucket_size=1000, schedule=[2], measure_every=50)
        held = []
        for step in range(5):
            steps(own, ranks.rank, range(step, step + 1))
            held.append(len(own.state_dict()["residuals"]["entries"]))
        return held

    assert LoopbackWorld(2).run(program)[0] == [0, 0, 0, 0, 2]
    assert [line.split(": ")[1] for line in caplog.messages if line.startswith("rank 0, step")] == [
        "error feedback pauses",
        "error feedback goes on",
    ]


def test_a_first_step_that_is_not_finite_does_not_hide_that_records_lose_too_much() -> None:
    """As with mixed precision, whose first step overflows: what could not be measured is measured at the next step."""

    def program(ranks: LoopbackCommunicator) -> list[float]:
        own = aggregator(ranks, **{**BAD, "measure_every": 10**6})
        largest = []
        for step in range(12):
            values = gradient(ranks.rank, 2000, step=step)
            values[5] = np.inf if step == 0 else values[5]
            own.start(0, values)
            largest.append(float(np.abs(own.result(0, 1.0)[1000:]).max()))
            own.end_step()
        assert own.state_dict()["is_measured"] is True
        return largest

    largest = LoopbackWorld(2).run(program)[0]
    assert max(largest[2:]) < 3 * largest[0]


def test_groups_that_are_finite_do_not_stand_for_one_that_is_not() -> None:
    """One group loses little, the other too much; at the only step that would measure both, that one has overflowed."""

    def program(ranks: LoopbackCommunicator) -> float:
        own = aggregator(ranks, **{**BAD, "bits": 4, "zero_level": True, "measure_every": 10**6})
        for step in range(20):
            sparse, dense = np.zeros(1000, np.float32), gradient(ranks.rank, 1000, step=step)
            sparse[7] = 3
            dense[5] = np.inf if step == 0 else dense[5]
            own.start(0, sparse)
            own.start(1, dense)
            largest = float(np.abs(own.result(1, 1.0)).max())
            own.result(0, 1.0)
            own.end_step()
        return largest

    assert LoopbackWorld(2).run(program)[0] < 40


def test_levels_are_fitted_to_what_is_sent_and_not_to_the_bare_gradient() -> None:
    """The gradient is next to nothing at the adaptation: all that is sent then is the residual."""

    def program(ranks: LoopbackCommunicator) -> int:
        own = aggregator(ranks, method="alq", exchange="two_shot", schedule=[1], measure_every=10**6)
        for values in (gradient(ranks.rank, 1000), np.full(1000, 1e-30, np.float32)):
            own.start(0, values)
            own.result(0, 1.0)
            own.end_step()
        return sum(entry["accepted"] for shot in own.shots.metrics() for entry in shot["adaptations"])

    assert LoopbackWorld(2).run(program) == [2, 2]
