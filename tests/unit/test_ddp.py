"""The communication hook for DDP, on loopback ranks: its records, its layout, its state, its refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

import alq_hvd
from alq_hvd.communicator.base import Payload, Pending
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.errors import (
    AlqError,
    CallOrderError,
    ConfigurationError,
    ConfigurationMismatch,
    StateError,
    UnsupportedTensor,
)
from tests.support import small_model
from tests.support.buckets import Bucket, buckets, reduce_buckets
from tests.support.exchanging import Watched
from tests.support.stand_in import reduce_gradients

FIRST = [["head"], ["linear", "bias"], ["conv"]]
REBUILT = [["head", "linear"], ["conv", "bias"]]


class Recorded(Watched):
    """Keep every record that was sent, in order, or every payload with another part of a name."""

    def __init__(self, inner: Any, *parts: str) -> None:
        super().__init__(inner)
        self.parts = parts or (".shot", ".group")
        self.records: list[tuple[str, bytes]] = []

    def allgather(self, payload: Payload, name: str) -> Pending[list[Payload]]:
        self._keep([payload], name)
        return super().allgather(payload, name)

    def alltoall(self, payloads: Sequence[Payload], name: str, *, alike: bool = False) -> Pending[list[Payload]]:
        self._keep(payloads, name)
        return super().alltoall(payloads, name, alike=alike)

    def _keep(self, payloads: Sequence[Payload], name: str) -> None:
        if any(part in name for part in self.parts):
            self.records.append((name, b"".join(payload.tobytes() for payload in payloads)))


def state(ranks: Any, **options: Any) -> Any:
    chosen = {"method": "alq", "bits": 3, "bucket_size": 64, "min_elements": 100, "fusion_elements": 4000, **options}
    return alq_hvd.ddp.CompressionState(communicator=ranks, **chosen)


def train(ranks: Any, made: Any, layouts: Sequence[Sequence[Sequence[str]]], dtype: Any = torch.float32) -> list[bytes]:
    """Return the means of each step, all parameters in the order of their names."""
    parameters, means = small_model.model(), []
    for step, names in enumerate(layouts):
        small_model.backward(parameters, ranks.rank, step, dtype)
        made_buckets = buckets(parameters, names)
        reduce_buckets(made, made_buckets)
        gradients = {
            id(of): gradient
            for bucket in made_buckets
            for of, gradient in zip(bucket.of, bucket.gradients(), strict=True)
        }
        means.append(b"".join(gradients[id(parameters[name])].float().numpy().tobytes() for name in small_model.SHAPES))
    return means


@pytest.mark.parametrize("exchange", ["two_shot", "allgather"])
def test_records_are_those_of_the_horovod_front_end_byte_for_byte(exchange: str) -> None:
    """Both lay out the same named gradients, in the same order; adaptation and error feedback go on for four steps."""
    options = {
        "exchange": exchange,
        "schedule": [0, 2],
        "error_feedback": True,
        "measure_every": 1,
        "codec": "reference",
    }

    def over_ddp(ranks: LoopbackCommunicator) -> Any:
        watched, parameters = Recorded(ranks), small_model.model()
        made = state(watched, named_parameters=parameters.items(), **options)
        for step in range(4):
            small_model.backward(parameters, ranks.rank, step)
            reduce_buckets(made, buckets(parameters, FIRST if step == 0 else REBUILT))
        return watched.records, made.metrics()["levels"]

    def over_horovod(ranks: LoopbackCommunicator) -> Any:
        watched, parameters = Recorded(ranks), dict(reversed(small_model.model().items()))
        made = small_model.compressor(watched, parameters, **options)  # type: ignore[arg-type]
        for step in range(4):
            small_model.backward(dict(reversed(parameters.items())), ranks.rank, step)
            reduce_gradients(ranks, made, small_model.named_gradients(parameters))
        return watched.records, made.metrics()["levels"]

    for ours, theirs in zip(LoopbackWorld(3).run(over_ddp), LoopbackWorld(3).run(over_horovod), strict=True):
        assert len(ours[0]) == 4 * 3 * (2 if exchange == "two_shot" else 1)
        assert sorted(ours[0]) == sorted(theirs[0])
        assert ours[1] == theirs[1]


def test_means_are_near_the_exact_ones_and_the_same_on_all_ranks() -> None:
    for options in (
        {"bits": 6},
        {"bits": 6, "exchange": "allgather"},
        {"method": "optimal", "bits": (4, 8), "exchange": "two_shot"},
    ):
        for dtype, near in ((torch.float32, 0.2), (torch.bfloat16, 0.2), (torch.float16, 0.2)):
            means = LoopbackWorld(2).run(
                lambda ranks, options=options, dtype=dtype: train(
                    ranks, state(ranks, **options), [FIRST, REBUILT], dtype
                )
            )
            assert means[0] == means[1]
            for step in range(2):
                exact = np.concatenate([part.ravel() for part in small_model.exact(step, 2).values()])
                error = np.frombuffer(means[0][step], dtype=np.float32) - exact
                assert 0 < (error**2).sum() / (exact**2).sum() < near, (options, dtype, step)


def test_small_gradients_are_averaged_exactly_and_none_leaves_all_to_ddp() -> None:
    start = sum(np.prod(shape) for name, shape in small_model.SHAPES.items() if name == "conv")
    for method in ("alq", "none"):
        means = LoopbackWorld(2).run(lambda ranks, method=method: train(ranks, state(ranks, method=method), [FIRST]))
        exact = small_model.exact(0, 2)
        got = np.frombuffer(means[1][0], dtype=np.float32)
        np.testing.assert_allclose(got[start : start + 16], exact["bias"], rtol=1e-6)
        if method == "none":
            np.testing.assert_allclose(got[:start], exact["conv"].ravel(), rtol=1e-5, atol=1e-7)


def test_new_buckets_change_nothing_but_the_order_of_delivery() -> None:
    """A run goes on in the same way whether DDP has made new buckets or not."""

    def program(layouts: Any) -> Callable[[LoopbackCommunicator], list[bytes]]:
        return lambda ranks: train(ranks, state(ranks, schedule=[0, 1]), layouts)

    one_way, other = (LoopbackWorld(2).run(program(layouts)) for layouts in ([FIRST] * 3, [FIRST, REBUILT, REBUILT]))
    assert one_way == other


def test_small_gradients_are_added_up_in_one_order_whatever_the_buckets() -> None:
    """The sum of an all-reduce depends in its last bit on where a value lies."""

    def sent(ranks: LoopbackCommunicator) -> list[tuple[str, bytes]]:
        watched, parameters = Recorded(ranks, ".small"), small_model.model()
        made = state(watched, min_elements=3000)
        for names in (FIRST, REBUILT):
            small_model.backward(parameters, ranks.rank, 0)
            reduce_buckets(made, buckets(parameters, names))
        return watched.records

    for first, rebuilt in LoopbackWorld(2).run(sent):
        assert first == rebuilt


def test_a_resumed_run_is_the_same_run_bit_for_bit() -> None:
    options: dict[str, Any] = {"schedule": [0, 2], "error_feedback": True, "exchange": "two_shot"}

    def whole(ranks: LoopbackCommunicator) -> list[bytes]:
        return train(ranks, state(ranks, **options), [FIRST, REBUILT, REBUILT, REBUILT])[2:]

    def cut(ranks: LoopbackCommunicator) -> list[bytes]:
        before = state(ranks, **options)
        train(ranks, before, [FIRST, REBUILT])
        after, parameters, means = state(ranks, **options), small_model.model(), []
        after.load_state_dict(before.state_dict())
        for step, names in ((2, FIRST), (3, REBUILT)):
            small_model.backward(parameters, ranks.rank, step)
            made = buckets(parameters, names)
            reduce_buckets(after, made)
            found = {id(of): part for bucket in made for of, part in zip(bucket.of, bucket.gradients(), strict=True)}
            means.append(b"".join(found[id(parameters[name])].numpy().tobytes() for name in small_model.SHAPES))
        return means

    assert LoopbackWorld(2).run(whole) == LoopbackWorld(2).run(cut)


def test_what_can_not_work_is_one_clear_error() -> None:
    def wrong_model(made: Any, parameters: Any) -> None:
        reduce_buckets(made, buckets(parameters, FIRST))
        other = small_model.model()
        small_model.backward(other, 0, 1)
        reduce_buckets(made, buckets(other, FIRST))

    def missed(made: Any, parameters: Any) -> None:
        made.reduce(buckets(parameters, FIRST)[1])

    def integers(made: Any, parameters: Any) -> None:
        made.reduce(Bucket(0, True, torch.zeros(8, dtype=torch.int64), []))

    def sparse(made: Any, parameters: Any) -> None:
        made.reduce(Bucket(0, True, torch.eye(3).to_sparse(), []))

    def other_method(made: Any, parameters: Any) -> None:
        made.load_state_dict(state(LoopbackCommunicator(LoopbackWorld(1), 0), method="amq").state_dict())

    def in_flight(made: Any, parameters: Any) -> None:
        made.reduce(buckets(parameters, FIRST)[0])
        made.state_dict()

    def part(made: Any, parameters: Any) -> None:
        reduce_buckets(made, buckets(parameters, FIRST))
        reduce_buckets(made, buckets(parameters, [["head"], ["linear"]]))

    def unnamed(made: Any, parameters: Any) -> None:
        some = state(made._communicator, named_parameters=[("head", parameters["head"])])
        reduce_buckets(some, buckets(parameters, FIRST))

    def no_state(made: Any, parameters: Any) -> None:
        alq_hvd.ddp.hook(None, buckets(parameters, FIRST)[0])

    cases: list[tuple[Callable[[Any, Any], None], type[AlqError], str]] = [
        (wrong_model, CallOrderError, "give every model a CompressionState of its own"),
        (missed, CallOrderError, "expected bucket 0 of a step, got bucket 1"),
        (integers, UnsupportedTensor, "got torch.int64"),
        (sparse, UnsupportedTensor, "sparse=False"),
        (other_method, StateError, "method: expected 'alq', got a state with 'amq'"),
        (in_flight, CallOrderError, "between steps"),
        (part, CallOrderError, "are missing: "),
        (unnamed, ConfigurationError, "model.named_parameters()"),
        (no_state, ConfigurationError, "got NoneType"),
    ]
    for call, kind, text in cases:

        def program(ranks: LoopbackCommunicator, call: Any = call, kind: Any = kind, text: str = text) -> None:
            parameters = small_model.model()
            small_model.backward(parameters, ranks.rank, 0)
            with pytest.raises(kind, match=text.replace("(", r"\(").replace(")", r"\)")):
                call(state(ranks), parameters)

        LoopbackWorld(2, timeout=10).run(program)


def test_ranks_with_other_options_all_stop_and_name_the_option() -> None:
    def program(ranks: LoopbackCommunicator) -> str:
        with pytest.raises(ConfigurationMismatch) as caught:
            train(ranks, state(ranks, bits=3 + ranks.rank), [FIRST])
        return str(caught.value)

    assert all("bits: rank 0 has 3, rank 1 has 4" in text for text in LoopbackWorld(2).run(program))


def test_samples_name_parameters() -> None:
    with pytest.raises(ConfigurationError, match="named_parameters beside it"):
        state(LoopbackCommunicator(LoopbackWorld(1), 0), sample_gradients=list)


def test_levels_fit_to_samples_and_options_change_on_the_way() -> None:
    def program(ranks: LoopbackCommunicator) -> Any:
        parameters = small_model.model()
        named = {name: torch.randn(shape) for name, shape in small_model.SHAPES.items()}
        made = state(ranks, named_parameters=parameters.items(), sample_gradients=lambda: [named], schedule=[0, 1, 2])
        for step in range(3):
            small_model.backward(parameters, ranks.rank, step)
            reduce_buckets(made, buckets(parameters, FIRST))
            if step == 1:
                made.reconfigure(bits=4)
        return made.metrics()["bits"], made.metrics()["levels_version"], made.metrics()["step"]

    assert LoopbackWorld(2).run(program) == [(4, 1, 3)] * 2  # levels of another width start anew


def test_neither_horovod_nor_mpi_is_needed() -> None:
    program = """
import sys
for name in ("horovod", "horovod.torch", "mpi4py", "cupy"):
    sys.modules[name] = None
import torch
import alq_hvd
from alq_hvd import backends, cli
from alq_hvd.communicator.loopback import LoopbackWorld
from tests.unit.test_ddp import FIRST, REBUILT, state, train
means = LoopbackWorld(2).run(lambda ranks: train(ranks, state(ranks, codec="reference"), [FIRST, REBUILT]))
assert means[0] == means[1]
for name in ("engine.session", "quantiser.methods", "codec.reference", "frontends.process_group", "weights"):
    __import__(f"alq_hvd.{name}")
try:
    alq_hvd.Compression.alq()
except alq_hvd.AlqError as error:
    assert "horovod" in str(error)
else:
    raise AssertionError("Horovod was found")
print("trained")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, env=environment, check=False
    )
    assert done.stdout.strip().endswith("trained"), done.stderr
