"""Gradients on a device: encoded there, only records travel, and weights are those of the native codec, bit for bit.

The device is emulated: its tensors are the CPU's, its kernels run on the CPU. ``tests/gpu`` has the same on a real one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from alq_hvd import backends
from alq_hvd.communicator.base import Communicator, Payload, Pending
from alq_hvd.communicator.horovod import HorovodCommunicator
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.engine import joining
from alq_hvd.engine.joining import agree_on_layout
from alq_hvd.engine.layout import FusionLayout, Gradient
from alq_hvd.engine.options import Options
from alq_hvd.errors import ConfigurationError, ConfigurationMismatch, UnsupportedTensor, WireFormatError
from alq_hvd.frontends.horovod.transport import HorovodTransport
from tests.support.cases import each
from tests.support.device_training import compressor, gradients_of, network, train, weights
from tests.support.emulated_device import EmulatedDevice, EmulatedDevices, needs_compiler
from tests.support.exchanging import Watched
from tests.support.grid import grid
from tests.support.stand_in import fetch, reduce_gradients, send

pytestmark = [needs_compiler, pytest.mark.timeout(300)]

OnDevice = Callable[[int], EmulatedDevices | None]


def on_host(rank: int) -> None:
    """Let every rank's gradients live on the host."""


def on_device(rank: int) -> EmulatedDevices:
    """Give every rank a device of its own."""
    return EmulatedDevices()


def run(
    size: int,
    devices_of: OnDevice,
    *,
    dtype: torch.dtype = torch.float32,
    names: bool = True,
    place: Callable[[LoopbackCommunicator], Communicator] = lambda ranks: ranks,
    **options: Any,
) -> bytes:
    """Return the weights of all ranks, which must be the same; ``place`` tells a rank more about its world.

    Args:
        size: how many ranks.
        devices_of: of each rank.
        dtype: of the gradients.
        names: parameters have names.
        place: see above.
        options: of the compression.
    """

    def program(ranks: LoopbackCommunicator) -> bytes:
        model, devices = network(dtype, "cpu"), devices_of(ranks.rank)
        result = train(ranks, model, compressor(place(ranks), model, devices, names=names, **options))
        if devices is not None:
            launched = " ".join(devices.device.launched)
            assert "alq::encode" in launched
            assert "alq::decode_" in launched
        return result

    first, *others = LoopbackWorld(size).run(program)
    assert all(other == first for other in others)
    return first


def test_weights_are_the_same_where_sums_are_dithered() -> None:
    options: dict[str, Any] = {"exchange": "two_shot", "dtype": torch.bfloat16, "bits": 4}
    assert run(3, on_device, dither=True, **options) == run(3, on_host, dither=True, **options)
    assert run(3, on_host, dither=True, **options) != run(3, on_host, dither=False, **options)


@each("exchange", ["allgather", "two_shot"])
def test_weights_are_the_same_where_blocks_have_widths_of_their_own(exchange: str) -> None:
    options: dict[str, Any] = {"exchange": exchange, "dtype": torch.bfloat16, "bits": 1.5, "bucket_size": 64}
    options |= {"widths": "adaptive", "error_feedback": exchange == "two_shot"}
    assert run(3, on_device, **options) == run(3, on_host, **options)


@each("exchange", ["allgather", "two_shot"])
@each("feedback", [True, False])
def test_weights_are_the_same_where_ranks_round_together(exchange: str, feedback: bool) -> None:
    options: dict[str, Any] = {"exchange": exchange, "dtype": torch.bfloat16, "error_feedback": feedback, "bits": 4}
    assert run(3, on_device, correlated=True, **options) == run(3, on_host, correlated=True, **options)
    assert run(3, on_host, correlated=True, **options) != run(3, on_host, correlated=False, **options)


@each("exchange", ["allgather", "two_shot"])
@each("dtype", [torch.float32, torch.bfloat16, torch.float16])
@each("names", [True, False])
def test_weights_are_those_of_the_native_codec(exchange: str, dtype: torch.dtype, names: bool) -> None:
    options: dict[str, Any] = {"exchange": exchange, "dtype": dtype, "names": names}
    assert run(3, on_device, **options) == run(3, on_host, **options)


@each("rotated", [{"method": "optimal", "rotate": True, "schedule": [1]}, {"method": "eden"}])
@each("exchange", ["allgather", "two_shot"])
def test_weights_are_the_same_where_buckets_are_rotated(exchange: str, rotated: dict[str, Any]) -> None:
    options = {"exchange": exchange, "dtype": torch.bfloat16, **rotated}
    assert run(3, on_device, **options) == run(3, on_host, **options)


@each("exchange", ["allgather", "two_shot", "hierarchical"])
@each("dtype", [torch.float32, torch.bfloat16])
def test_error_feedback_on_the_device_is_that_of_the_host(exchange: str, dtype: torch.dtype) -> None:
    """Levels are fitted once, to gradients with their residuals; where nobody looks, the device adds them unseen."""
    options: dict[str, Any] = {"exchange": exchange, "dtype": dtype, "error_feedback": True, "schedule": [1]}
    places = {"place": grid(2, 2)} if exchange == "hierarchical" else {}
    expected = run(4, on_host, **options, **places)
    assert run(4, on_device, **options, **places) == expected
    assert run(4, on_host, **{**options, "error_feedback": False}, **places) != expected


@pytest.mark.parametrize("bucket_size", [64, 100])
def test_levels_fitted_to_what_the_device_counted_are_the_same(bucket_size: int) -> None:
    """Statistics of both shots are counted on the device at steps 0 and 2; 100 takes the kernels of other sizes."""
    options: dict[str, Any] = {"exchange": "two_shot", "schedule": [0, 2], "bits": (3, 4), "bucket_size": bucket_size}
    fitted = run(2, on_device, measure_every=1, **options)
    assert fitted == run(2, on_host, **options)
    assert fitted != run(2, on_host, **{**options, "schedule": []})


def test_a_rank_with_a_device_and_a_rank_without_train_together() -> None:
    expected = run(3, on_host, exchange="two_shot")
    assert run(3, lambda rank: on_device(rank) if rank == 1 else None, exchange="two_shot") == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hierarchical_adds_up_inside_a_node_as_the_host_does(dtype: torch.dtype) -> None:
    options: dict[str, Any] = {"exchange": "hierarchical", "dtype": dtype, "schedule": [1]}
    expected = run(4, on_host, place=grid(2, 2), **options)
    assert run(4, on_device, place=grid(2, 2), **options) == expected
    assert run(4, lambda rank: on_device(rank) if rank % 3 else None, place=grid(2, 2), **options) == expected


def test_gradients_of_the_host_and_of_a_device_in_one_model() -> None:
    """Weights of the first layer on the host, of the second on a device: groups of their own, whatever their size."""
    split = EmulatedDevices(holds=lambda tensor: tensor.shape == (30, 40))

    def program(ranks: LoopbackCommunicator) -> tuple[bytes, list[Any]]:
        model = network(torch.float32, "cpu")
        compression = compressor(ranks, model, split, codec="auto", fusion_elements=10_000)
        return train(ranks, model, compression), compression._session.groups.layout.describe()

    expected = run(2, on_host, fusion_elements=1000)
    for result, layout in LoopbackWorld(2).run(program):
        assert layout == [["0.weight", 960, [40, 24], "group 0"], ["2.weight", 1200, [30, 40], "group 1"]]
        assert result == expected


def test_ranks_whose_models_are_spread_differently_are_told_before_a_payload() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        model = network(torch.float32, "cpu")
        devices = EmulatedDevices(holds=lambda tensor: ranks.rank == 0 or tensor.shape == (30, 40))
        compression = compressor(ranks, model, devices, codec="auto", fusion_elements=10_000)
        with pytest.raises(ConfigurationMismatch, match=r"gradients\[1\]: rank 0 has .*group 0.*rank 1 has .*group 1"):
            train(ranks, model, compression)

    LoopbackWorld(2).run(program)


@pytest.mark.parametrize("exchange", ["allgather", "two_shot"])
def test_ranks_that_ask_for_results_in_another_order_do_not_wait_for_each_other(exchange: str) -> None:
    """Copies to the host take longer than anything: no rank may wait for a record that another has not sent yet."""

    def program(ranks: LoopbackCommunicator) -> list[bytes]:
        model = network(torch.float32, "cpu")
        devices = EmulatedDevices(EmulatedDevice(polls=10**6))
        compression = compressor(ranks, model, devices, exchange=exchange)
        gradients = gradients_of(model, lambda index: 1.0 + index + ranks.rank)
        sent = send(ranks, compression, gradients)
        order = (0, 1) if ranks.rank == 0 else (1, 0)
        reduced = {index: fetch(compression, sent[index]).numpy().tobytes() for index in order}
        return [reduced[0], reduced[1]]

    first, *others = LoopbackWorld(3, timeout=20).run(program)
    assert all(other == first for other in others)


def test_records_that_are_still_leaving_the_device_are_sent_while_the_backward_pass_goes_on() -> None:
    """A record needs to be asked for twice; the compress calls of later gradients ask."""

    def program(ranks: LoopbackCommunicator) -> None:
        watched = Watched(ranks)
        model = torch.nn.Sequential(*(torch.nn.Linear(20, 20) for _ in range(4)))
        compression = compressor(watched, model, EmulatedDevices(EmulatedDevice(polls=1)), fusion_elements=1)
        gradients = gradients_of(model, lambda index: index)
        reduce_gradients(ranks, compression, gradients)  # in which ranks have agreed on where gradients go
        watched.started.clear()
        sent = []
        for layer in model:
            layer.weight.grad = torch.ones_like(layer.weight)
            compression.compress(layer.weight.grad)
            sent.append(len([name for _, name, _ in watched.started if ".group" in name]))
        assert sent[0] == 0 and sent == sorted(sent)
        assert sent[-1] >= 2  # each call asks for the oldest record that has not left

    LoopbackWorld(2).run(program)


SENDER, IN_A_NORM = 24, 40
"""Places in a record: in its header, and behind it."""


@dataclass
class Damaging(Watched):
    """Change a byte of what one collective delivers: of its payload, or of a header's sender."""

    name: str = ""
    place: int = 0

    def allgather(self, payload: Payload, name: str) -> Any:
        return self._maybe(super().allgather(payload, name), name)

    def alltoall(self, payloads: Sequence[Payload], name: str, *, alike: bool = False) -> Any:
        return self._maybe(super().alltoall(payloads, name, alike=alike), name)

    def _maybe(self, pending: Pending[list[Payload]], name: str) -> Any:
        return _Damaged(pending, self.place) if name == self.name else pending


class _Damaged:
    def __init__(self, pending: Pending[list[Payload]], place: int) -> None:
        self.pending, self.place = pending, place

    def done(self) -> bool:
        return self.pending.done()

    def wait(self) -> list[Payload]:
        received = deepcopy(self.pending.wait())
        received[1][self.place] ^= 64
        return received


@pytest.mark.parametrize(
    ("place", "found"), [(IN_A_NORM, "a checksum that does not fit the bytes"), (SENDER, "a header that differs")]
)
def test_damage_in_the_last_hop_stops_the_step_before_the_weights_change(place: int, found: str) -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        model = network(torch.float32, "cpu")
        before = weights(model)
        damaging = Damaging(ranks, name="alq_hvd.group1", place=place)
        compression = compressor(damaging, model, EmulatedDevices(), exchange="allgather")
        with pytest.raises(
            WireFormatError, match=f"rank {ranks.rank}, step 0: expected whole records .*{found}.* on cpu"
        ):
            train(ranks, model, compression)
        assert weights(model) == before

    LoopbackWorld(2).run(program)


def test_a_sum_made_of_damaged_records_is_not_sent_on() -> None:
    """Rank 0 is to send the sum of its chunk to all: it must find out first, for nobody else could."""
    started: dict[int, list[tuple[str, str, int]]] = {}

    def program(ranks: LoopbackCommunicator) -> None:
        model = network(torch.float32, "cpu")
        name = "alq_hvd.group1.shot0" if ranks.rank == 0 else "none of them"
        watched = Damaging(ranks, name=name, place=IN_A_NORM)
        started[ranks.rank] = watched.started
        train(ranks, model, compressor(watched, model, EmulatedDevices(), exchange="two_shot"), steps=1)

    with pytest.raises(WireFormatError, match=r"rank 0: alq_hvd\.group1\.shot1: .*a checksum that does not fit"):
        LoopbackWorld(3, timeout=20).run(program)
    names = [name for _, name, _ in started[0]]
    assert "alq_hvd.group1.shot0" in names
    assert "alq_hvd.group1.shot1" not in names


@each("exchange", ["allgather", "two_shot", "hierarchical"])
@each("dtype", [torch.float32, torch.bfloat16])
def test_records_handed_over_where_they_lie_give_the_same_weights(exchange: str, dtype: torch.dtype) -> None:
    options: dict[str, Any] = {"exchange": exchange, "dtype": dtype, "schedule": [1]}
    places = {"place": grid(2, 2)} if exchange == "hierarchical" else {}
    assert run(4, on_device, device_records=True, **options, **places) == run(4, on_host, **options, **places)


def test_a_sum_of_damaged_records_that_nobody_waited_for_is_taken_by_no_rank() -> None:
    """Rank 0 cannot know yet that its sum is wrong when it hands it over: what leaves then is no record at all."""

    def program(ranks: LoopbackCommunicator) -> None:
        model = network(torch.float32, "cpu")
        before = weights(model)
        name = "alq_hvd.group1.shot0" if ranks.rank == 0 else "none of them"
        damaging = Damaging(ranks, name=name, place=IN_A_NORM)
        compression = compressor(damaging, model, EmulatedDevices(), exchange="two_shot", device_records=True)
        with pytest.raises(WireFormatError, match=f"rank {ranks.rank}, step 0: .*a header that differs"):
            train(ranks, model, compression)
        assert weights(model) == before

    LoopbackWorld(3).run(program)


def test_device_records_need_gradients_on_devices_and_a_communicator_that_takes_them() -> None:
    class HostOnly:
        def __init__(self, inner: LoopbackCommunicator) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            if name == "tensors":
                raise AttributeError(name)
            return getattr(self.inner, name)

    def program(ranks: LoopbackCommunicator) -> None:
        model = network(torch.float32, "cpu")
        mixed = EmulatedDevices(holds=lambda tensor: tensor.shape == (30, 40))
        options: dict[str, Any] = {"codec": "auto", "device_records": True}
        with pytest.raises(ConfigurationError, match=r"device_records: expected every .* on a GPU, got 0\.weight enc"):
            train(ranks, model, compressor(ranks, model, mixed, **options))
        with pytest.raises(ConfigurationError, match="device_records: expected a communicator that takes tensors, got"):
            train(ranks, model, compressor(HostOnly(ranks), model, EmulatedDevices(), **options, name="other"))  # type: ignore[arg-type]

    LoopbackWorld(2).run(program)


@pytest.mark.parametrize("names", [True, False])
def test_a_gradient_of_the_host_is_refused_where_the_device_codec_is_asked_for(names: bool) -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        model = network(torch.float32, "cpu")
        devices = EmulatedDevices(holds=lambda tensor: tensor.shape == (30, 40))
        with pytest.raises(
            UnsupportedTensor, match=r'codec="cuda": expected gradients on a CUDA device.*\(40, 24\) on cpu'
        ):
            train(ranks, model, compressor(ranks, model, devices, names=names))

    LoopbackWorld(2).run(program)


def test_one_rank_that_can_not_hand_its_records_over_stops_all() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        model = network(torch.float32, "cpu")
        devices = EmulatedDevices(holds=lambda tensor: ranks.rank == 0)
        compression = compressor(ranks, model, devices, codec="auto", device_records=True)
        with pytest.raises(ConfigurationMismatch, match="device_records: rank 0 has possible, rank 1 has expected"):
            train(ranks, model, compression)

    LoopbackWorld(2).run(program)


class Everyone:
    """A process set of Horovod's that includes this rank."""

    def included(self) -> bool:
        return True


@dataclass(frozen=True)
class Gpu:
    name: str = "cuda:0"


def test_records_of_gpus_need_a_horovod_with_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before the first record is made: Horovod's own error names a type of tensor, and no remedy."""
    monkeypatch.setattr(backends.horovod(), "nccl_built", lambda: 0)
    layout = FusionLayout.build([Gradient(0, "weight", 4, place=Gpu())], 8)
    transport = HorovodTransport(HorovodCommunicator(process_set=Everyone()), "alq_hvd")
    options = Options(method="alq", bits=3, device_records=True)
    monkeypatch.setattr(joining, "agree_on_configuration", lambda communicator, own, name: own)
    with pytest.raises(ConfigurationError, match="device_records: expected a Horovod built with HOROVOD_GPU"):
        agree_on_layout(options, layout, transport, None)
    monkeypatch.setattr(backends.horovod(), "nccl_built", lambda: 21801)
    agree_on_layout(options, layout, transport, None)
    monkeypatch.setenv("HOROVOD_ENABLE_ASYNC_COMPLETION", "0")
    agree_on_layout(options, layout, transport, None)
    monkeypatch.setenv("HOROVOD_ENABLE_ASYNC_COMPLETION", "1")
    with pytest.raises(ConfigurationError, match="got HOROVOD_ENABLE_ASYNC_COMPLETION=1, where .* unset it, or go"):
        agree_on_layout(options, layout, transport, None)
