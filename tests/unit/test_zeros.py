"""What is zero on every rank comes out zero, whatever else is in its bucket; where that cannot be, it is said."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from alq_hvd.codec.choice import choose_codec
from alq_hvd.codec.reference import ReferenceCodec
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.engine.aggregator import Aggregator
from alq_hvd.engine.options import Options
from alq_hvd.engine.transport import PlainTransport
from tests.support.exchanging import gradient
from tests.support.grid import grid

ELEMENTS = 3000
ZERO = np.zeros(ELEMENTS, dtype=bool)
ZERO[:64] = True  # the padding row of an embedding
ZERO[700:1900] = True  # a frozen layer, longer than a bucket
ZERO[2000::2] = True  # a mask of pruned weights
STEPS = 4


def sums(ranks: LoopbackCommunicator, codec: Any, zero: np.ndarray, options: dict[str, Any]) -> list[np.ndarray]:
    """Return the sum over ranks at each of a few steps, levels fitted to the first and the third."""
    own = Aggregator(Options(**{"bits": 3, "bucket_size": 512, "schedule": [0, 2], **options}), codec)
    own.connect(PlainTransport(ranks), ranks)
    done = []
    for step in range(STEPS):
        values = np.where(zero, np.float32(0), gradient(ranks.rank, ELEMENTS, step=step))
        values[2500 + ranks.rank] *= 1e4 if step == 3 else 1
        own.start(0, values)
        done.append(own.result(0, 1.0).copy())
        own.end_step()
    return done


KEEP: dict[str, dict[str, Any]] = {
    **{f"{name}, {bits} bits": {"method": name, "bits": bits} for name in ("alq", "alqg_n", "amq") for bits in (3, 4)},
    **{
        f"{name}, {bits} bits": {"method": name, "bits": bits}
        for name in ("optimal", "qsgdinf", "qsgd", "nuqsgd")
        for bits in (2, 3, 8)
    },
    "terngrad": {"method": "terngrad", "bits": 2},
    "clipped": {"method": "optimal", "clip": 1.5},
    "free ends": {"method": "optimal", "free_ends": True},
    "error feedback": {"method": "optimal", "error_feedback": True},
    "two widths": {"method": "optimal", "bits": (4, 2)},
}


def test_what_is_zero_on_every_rank_comes_out_zero() -> None:
    for name, options in KEEP.items():
        for exchange, (nodes, per_node) in {"allgather": (1, 2), "two_shot": (1, 3), "hierarchical": (2, 2)}.items():
            if exchange == "allgather" and name == "two widths":
                continue
            placed = grid(nodes, per_node) if exchange == "hierarchical" else lambda ranks: ranks
            codec = choose_codec("auto") if exchange != "allgather" else ReferenceCodec()
            chosen = {**options, "exchange": exchange}
            results = LoopbackWorld(nodes * per_node).run(
                lambda ranks, codec=codec, chosen=chosen, placed=placed: sums(placed(ranks), codec, ZERO, chosen)
            )
            for step, result in enumerate(results[0]):
                assert not result[ZERO].any(), f"{name}, {exchange}, step {step}"
                assert result[~ZERO].any(), f"{name}, {exchange}, step {step}"


def test_what_is_zero_on_some_ranks_only_still_has_the_right_mean() -> None:
    """The zero level takes no part in the rounding of others: their mean stays exact."""

    def program(ranks: LoopbackCommunicator) -> np.ndarray:
        own = Aggregator(Options(method="optimal", bits=3, bucket_size=512, schedule=[0]), choose_codec("auto"))
        own.connect(PlainTransport(ranks), ranks)
        total = np.zeros(ELEMENTS)
        for _ in range(draws):
            values = gradient(ranks.rank, ELEMENTS)
            if ranks.rank == 0:
                values[ZERO] = 0
            own.start(0, values)
            total += own.result(0, 1.0)
            own.end_step()
        return total / draws

    draws = 400
    mean = LoopbackWorld(2).run(program)[0]
    exact = np.where(ZERO, 0, gradient(0, ELEMENTS)) + gradient(1, ELEMENTS).astype(np.float64)
    assert np.abs(mean - exact).mean() < 0.03


def told(caplog: pytest.LogCaptureFixture, zero: np.ndarray, **options: Any) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        LoopbackWorld(2).run(lambda ranks: sums(ranks, choose_codec("auto"), zero, {"measure_every": 1, **options}))
    return [line for line in caplog.messages if "expected zeros to stay zero" in line]


def test_where_zeros_can_not_stay_zero_it_is_said_once_a_rank_with_the_cure(caplog: pytest.LogCaptureFixture) -> None:
    for options, cure in (
        ({"method": "optimal", "rotate": True}, "take rotate=False"),
        ({"method": "eden"}, "take rotate=False"),
        ({"method": "qsgdinf", "zero_level": False}, "Take zero_level=True"),
        ({"method": "alq", "bits": 2}, "Take zero_level=True"),
        ({"method": "optimal", "bits": 1}, "Take at least two bits"),
    ):
        said = told(caplog, ZERO, **options)
        assert len(said) == 2, options
        assert cure in said[0], options


def test_it_is_not_said_where_zeros_stay_or_are_too_few_to_matter(caplog: pytest.LogCaptureFixture) -> None:
    whole_buckets = np.zeros(ELEMENTS, dtype=bool)
    whole_buckets[512:2048] = True
    assert told(caplog, whole_buckets, method="eden") == []
    assert told(caplog, ZERO, method="optimal") == []
    assert told(caplog, np.zeros(ELEMENTS, dtype=bool), method="optimal", rotate=True) == []
