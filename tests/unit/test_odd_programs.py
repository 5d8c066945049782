"""Programs that set torch's defaults, transpose a weight, or have very many gradients: nothing goes wrong silently."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import alq_hvd
from alq_hvd.communicator.base import Payload, Pending
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.errors import ConfigurationMismatch
from alq_hvd.frontends.horovod.identity_keys import IdentityKeys
from tests.support.exchanging import Watched
from tests.support.small_model import compressor, named_gradients
from tests.support.stand_in import reduce_gradients


@contextmanager
def default_device(device: str | None) -> Iterator[None]:
    """Set it for this thread."""
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.fixture
def _float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_float64_by_default")
@pytest.mark.parametrize("error_feedback", [False, True])
def test_torchs_defaults_change_nothing(error_feedback: bool) -> None:
    """The device ``meta`` holds no numbers: whatever is made there by mistake fails."""
    gradients = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 2, 900)).astype(np.float32))

    def program(ranks: LoopbackCommunicator) -> None:
        weight = torch.nn.Parameter(torch.zeros(30, 30, dtype=torch.float32))
        compression = compressor(ranks, {"weight": weight}, bucket_size=1, error_feedback=error_feedback)
        for step in range(2):
            weight.grad = gradients[ranks.rank, step].reshape(30, 30).clone()
            with default_device("meta"):
                probe, ticket = compression.compress(weight.grad)
            assert str(probe.device) == "cpu"
            payload = np.frombuffer(probe.numpy().tobytes(), dtype=np.uint8)
            parts = [raw.view(probe.numpy().dtype) for raw in ranks.allgather(payload, "probe").wait()]
            reduced = torch.from_numpy(np.mean(parts, axis=0))
            with default_device("meta"):
                result = compression.decompress(reduced, ticket)
            assert result.dtype == torch.float32
            exact = gradients[:, step].mean(dim=0).reshape(30, 30)
            np.testing.assert_allclose(result.numpy(), exact.numpy(), rtol=1e-6, atol=1e-6)

    LoopbackWorld(2).run(program)


def test_a_weight_that_one_rank_has_transposed_is_named() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        shape = (20, 50) if ranks.rank == 0 else (50, 20)
        weight = torch.nn.Parameter(torch.zeros(shape))
        weight.grad = torch.ones(shape)
        compression = alq_hvd.Compression.alq(min_elements=1, communicator=ranks, named_parameters=[("weight", weight)])
        with pytest.raises(ConfigurationMismatch, match=r"gradients\[0\]: rank 0 has .*20, 50.*rank 1 has .*50, 20"):
            reduce_gradients(ranks, compression, [("weight", weight.grad)])

    LoopbackWorld(2).run(program)


@dataclass
class Counting(Watched):
    """Count how often somebody asks whether a collective has arrived."""

    asked: int = 0

    def alltoall(self, payloads: Sequence[Payload], name: str, *, alike: bool = False) -> Any:
        return _Counted(super().alltoall(payloads, name, alike=alike), self)

    def allgather(self, payload: Payload, name: str) -> Any:
        return _Counted(super().allgather(payload, name), self)


@dataclass
class _Counted:
    pending: Pending[Any]
    counter: Counting

    def done(self) -> bool:
        self.counter.asked += 1
        return self.pending.done()

    def wait(self) -> Any:
        return self.pending.wait()


def test_the_work_of_a_step_grows_with_the_number_of_fusion_groups_and_not_with_a_power_of_it() -> None:
    def program(ranks: LoopbackCommunicator, groups: int) -> int:
        counting = Counting(ranks)
        parameters = {f"p{index}": torch.nn.Parameter(torch.zeros(64)) for index in range(groups)}
        compression = compressor(counting, parameters, method="qsgdinf", exchange="two_shot", min_elements=1,
                                 fusion_elements=64, measure_every=10**6)  # type: ignore[arg-type]  # fmt: skip
        for step in range(2):
            counting.asked = 0
            for parameter in parameters.values():
                parameter.grad = torch.full((64,), float(step))
            reduce_gradients(ranks, compression, named_gradients(parameters))
        return counting.asked

    for groups in (20, 160):
        asked = max(LoopbackWorld(2).run(lambda ranks, groups=groups: program(ranks, groups)))
        assert asked < 16 * groups, groups


def test_gradients_in_a_random_order_are_found_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a search looks at: once as each gradient is made, as a hook does, and once when all are there."""
    count = 400
    looked = 0

    class Parameter(torch.nn.Parameter):
        def __getattribute__(self, name: str) -> Any:
            nonlocal looked
            looked += name == "grad"
            return super().__getattribute__(name)

    named = [(f"p{index}", Parameter(torch.zeros(3))) for index in range(count)]
    keys = IdentityKeys(named, min_elements=0)
    order = random.Random(0).sample(range(count), count)
    losses = [named[index][1].sum() for index in order]
    for index, loss in zip(order, losses, strict=True):
        loss.backward()
        looked = 0
        slot = keys.locate(torch.Tensor.grad.__get__(named[index][1]))  # type: ignore[attr-defined]
        assert slot is not None and slot.index == index
        assert looked <= 4
    keys.end_step()
    looked = 0
    for index in random.Random(1).sample(range(count), count):
        assert keys.locate(torch.Tensor.grad.__get__(named[index][1])) is not None  # type: ignore[attr-defined]
    assert looked < 8 * count
