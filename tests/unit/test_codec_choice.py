"""Which codec serves gradients of the host and of devices, and what is said when it cannot."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import alq_hvd
from alq_hvd import backends
from alq_hvd.codec import cuda_device
from alq_hvd.codec.choice import Codecs
from alq_hvd.codec.cuda_device import CudaDevice, CudaDevices
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.errors import BackendUnavailable, ConfigurationError
from tests.support.device_training import compressor, network, train
from tests.support.emulated_device import EmulatedDevice, EmulatedDevices

GRADIENT = torch.zeros(8)


class Unusable(EmulatedDevices):
    """Hold every gradient, and no kernels for it."""

    def require(self) -> None:
        raise BackendUnavailable("cannot import cupy")

    def of(self, tensor: torch.Tensor) -> EmulatedDevice:
        raise BackendUnavailable("cannot import cupy")


@pytest.fixture
def no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)


def on_gpu(number: int = 0) -> Any:
    """Return what stands for a CUDA tensor as long as only its device is asked for."""
    return SimpleNamespace(device=SimpleNamespace(type="cuda", index=number), shape=(8,))


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_gradients_of_a_device_get_its_codec_the_same_at_every_call(name: str) -> None:
    devices = EmulatedDevices()
    codecs = Codecs(name, devices)
    assert codecs.place(GRADIENT) is devices.device
    assert codecs.on(devices.device).device is devices.device
    assert codecs.on(devices.device) is codecs.on(devices.device)


@pytest.mark.parametrize("name", ["native", "reference"])
def test_a_codec_of_the_host_serves_gradients_of_a_device_too(name: str) -> None:
    codecs = Codecs(name, EmulatedDevices())
    assert codecs.place(GRADIENT) is None
    assert codecs.host.name == name


def test_auto_takes_the_host_where_kernels_can_not_run_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    def program(ranks: LoopbackCommunicator) -> bytes:
        model = network(torch.float32, "cpu")
        return train(ranks, model, compressor(ranks, model, Unusable(), codec="auto"))

    with caplog.at_level(logging.WARNING):
        told = LoopbackWorld(1).run(lambda ranks: Codecs("auto", Unusable()))[0]
        assert [told.place(GRADIENT), told.place(GRADIENT)] == [None, None]
    assert [record.message for record in caplog.records] == [
        "gradients on cpu are copied to the host before they are encoded: cannot import cupy"
    ]
    first, second = LoopbackWorld(2).run(program)
    assert first == second


def test_the_device_codec_by_name_needs_cupy_before_training_starts(no_cupy: None) -> None:
    with pytest.raises(BackendUnavailable, match=r"cannot import cupy .*alq-hvd\[cuda12\].*alq-hvd\[cuda13\]"):
        alq_hvd.Compression.alq(codec="cuda")


def test_cuda_gradients_go_to_the_host_without_cupy(no_cupy: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert Codecs("auto").place(on_gpu()) is None
    assert "alq-hvd[cuda12]" in caplog.text


def test_cuda_gradients_are_told_by_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "cupy", lambda: None)
    monkeypatch.setattr(cuda_device, "_capability", lambda number: 90 if number else 75)
    assert CudaDevices().of(GRADIENT) is None
    assert CudaDevices().of(on_gpu(1)) == CudaDevice(1)
    with pytest.raises(BackendUnavailable, match=r"compute capability 8.0 or newer, got 7.5 on cuda:0"):
        CudaDevices().of(on_gpu(0))


def test_an_unknown_codec_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="codec: expected one of auto, native, reference, cuda, got 'gpu'"):
        alq_hvd.Compression.alq(codec="gpu")
