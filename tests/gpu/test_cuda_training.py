"""Training through the shell for Horovod, with gradients on a GPU: weights of the native codec, hooks that do not wait.

``tests/unit/test_device_training.py`` has more of this, on a device that is emulated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alq_hvd import backends
from alq_hvd.codec.cuda_device import CudaDevice
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from tests.support.device_training import compressor, gradients_of, network, train
from tests.support.stand_in import fetch, reduce_gradients, send

pytestmark = pytest.mark.timeout(300)


def run(size: int, codecs: list[str], *, dtype: str = "float32", names: bool = True, **options: Any) -> bytes:
    """Return the weights of all ranks, which must be the same; they share a GPU, and take turns in ``codecs``.

    With ``"native"`` the gradients of the GPU are copied to the host and encoded there.
    """

    def program(ranks: LoopbackCommunicator) -> bytes:
        model, codec = network(getattr(backends.torch(), dtype), "cuda:0"), codecs[ranks.rank % len(codecs)]
        return train(ranks, model, compressor(ranks, model, None, names=names, codec=codec, **options))

    first, *others = LoopbackWorld(size).run(program)
    assert all(other == first for other in others)
    return first


@pytest.mark.parametrize("exchange", ["allgather", "two_shot"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("names", [True, False])
def test_weights_are_those_of_the_native_codec(exchange: str, dtype: str, names: bool) -> None:
    options: dict[str, Any] = {"exchange": exchange, "dtype": dtype, "names": names, "schedule": []}
    assert run(3, ["cuda"], **options) == run(3, ["native"], **options)


@pytest.mark.parametrize("exchange", ["allgather", "two_shot"])
def test_error_feedback_is_that_of_the_native_codec(exchange: str) -> None:
    options: dict[str, Any] = {"exchange": exchange, "dtype": "bfloat16", "schedule": [], "error_feedback": True}
    assert run(3, ["cuda"], **options) == run(3, ["native"], **options)


@pytest.mark.parametrize("exchange", ["allgather", "two_shot"])
def test_records_handed_over_where_they_lie_give_the_same_weights(exchange: str) -> None:
    """By copies on the device; NCCL needs a GPU a rank."""
    options: dict[str, Any] = {"exchange": exchange, "dtype": "float32", "schedule": []}
    assert run(3, ["cuda"], device_records=True, **options) == run(3, ["native"], **options)


def test_ranks_with_different_codecs_train_together() -> None:
    options: dict[str, Any] = {"exchange": "two_shot", "schedule": []}
    assert run(3, ["native", "cuda"], **options) == run(3, ["native"], **options)


def test_levels_are_fitted_to_what_the_gpu_counted() -> None:
    """The order of float64 sums is not fixed on a GPU: levels may differ in their last bit, but not between ranks."""
    run(2, ["cuda"], exchange="two_shot", schedule=[0, 2], measure_every=1)


def test_auto_takes_the_gpu() -> None:
    def program(ranks: LoopbackCommunicator) -> list[Any]:
        model = network(backends.torch().float32, "cuda:0")
        compression = compressor(ranks, model, None, codec="auto")
        train(ranks, model, compression, steps=1)
        return list(compression._session.groups.layout.group_places)

    assert LoopbackWorld(2).run(program) == [[CudaDevice(0), CudaDevice(0)]] * 2


def test_hooks_wait_for_nothing_once_warm() -> None:
    """PyTorch raises where the host waits for the device while gradients are handed over."""
    torch = backends.torch()

    def program(ranks: LoopbackCommunicator) -> None:
        model = network(torch.float32, "cuda:0")
        compression = compressor(ranks, model, None, codec="cuda", exchange="two_shot", schedule=[])
        for step in range(4):
            gradients = gradients_of(model, float)
            ranks.allgather(np.zeros(1, np.uint8), f"step {step} begins").wait()
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")  # 0 measures variance, 1 compiles recode
            try:
                sent = send(ranks, compression, gradients)
                ranks.allgather(np.zeros(1, np.uint8), f"step {step} handed over").wait()
            finally:
                torch.cuda.set_sync_debug_mode("default")
            for each in sent:
                fetch(compression, each)

    LoopbackWorld(2).run(program)


def test_gradients_made_on_one_stream_and_fetched_on_another() -> None:
    """The stream of the hooks is busy for a while, and results are asked for on the default stream."""
    torch = backends.torch()

    def program(ranks: LoopbackCommunicator) -> list[bytes]:
        taken = []
        for name, stream in (("plain", torch.cuda.current_stream()), ("side", torch.cuda.Stream())):
            model = network(torch.float32, "cuda:0")
            compression = compressor(ranks, model, None, codec="cuda", name=name)
            with torch.cuda.stream(stream):
                torch.cuda._sleep(100_000_000)
                gradients = gradients_of(model, lambda index: 1.0 + index + ranks.rank)
                sent = send(ranks, compression, gradients, name)
            results = [fetch(compression, each) for each in sent]
            taken.append(b"".join(result.cpu().numpy().tobytes() for result in results))
        return taken

    for plain, side in LoopbackWorld(2).run(program):
        assert plain == side


def test_steps_after_the_first_ones_take_no_new_memory() -> None:
    torch = backends.torch()

    def program(ranks: LoopbackCommunicator) -> int:
        model = network(torch.float32, "cuda:0")
        compression = compressor(ranks, model, None, codec="cuda", exchange="two_shot", schedule=[])
        train(ranks, model, compression, steps=3)
        before = int(torch.cuda.memory_stats()["num_device_alloc"])
        train(ranks, model, compression, steps=5)
        return int(torch.cuda.memory_stats()["num_device_alloc"]) - before

    assert LoopbackWorld(2).run(program) == [0, 0]


@pytest.mark.skipif(backends.torch().cuda.device_count() < 2, reason="needs two GPUs")
def test_a_model_on_two_gpus_has_fusion_groups_on_each() -> None:
    torch = backends.torch()

    def program(ranks: LoopbackCommunicator) -> list[Any]:
        model = network(torch.float32, "cuda:0")
        model[1:].to("cuda:1")
        compression = compressor(ranks, model, None, codec="cuda", fusion_elements=10_000, bits=8)
        for index, result in enumerate(reduce_gradients(ranks, compression, gradients_of(model, float)).values()):
            assert str(result.device) == f"cuda:{index}"
            torch.testing.assert_close(result, torch.full_like(result, float(index)), rtol=0.1, atol=0.0)
        return list(compression._session.groups.layout.group_places)

    assert LoopbackWorld(2).run(program) == [[CudaDevice(0), CudaDevice(1)]] * 2
