"""What the codec asks of cupy and PyTorch, against a stand-in that has cupy's traps; several streams, several ranks."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from alq_hvd import backends
from alq_hvd.cli import main
from alq_hvd.codec import cuda_arguments, cuda_kernels, cuda_names, cuda_structs
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.codec.cuda_device import CudaDevice, Tensor
from alq_hvd.codec.device_arrays import Parts
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.record import RecordLayout, Stamp
from tests.support.cuda_cases import KEY, levels_of
from tests.support.cupy_stand_in import MOST_SHARED, STATIC_SHARED, Driver, Stream, cupy_of, torch_of
from tests.support.emulated_device import EmulatedDevice, needs_compiler
from tests.support.nvrtc import Nvrtc, needs_nvrtc

pytestmark = [needs_compiler, needs_nvrtc, pytest.mark.timeout(300)]


@pytest.fixture
def nvrtc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Nvrtc:
    monkeypatch.setenv("ALQ_HVD_KERNELS", str(tmp_path / "kernels"))
    return Nvrtc()


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, nvrtc: Nvrtc) -> Driver:
    """Put a stand-in in the place of cupy, which starts kernels on the CPU."""
    made = Driver()
    cuda_kernels.kernel.cache_clear()
    monkeypatch.setattr(backends, "cupy", lambda: cupy_of(made, nvrtc))
    monkeypatch.setattr(backends, "torch", lambda: torch_of(Stream(7)))
    return made


def test_kernels_start_through_cupy_with_any_shared_memory_after_any_other(driver: Driver) -> None:
    """Functions and their limits are shared: a small bucket after a large one must not lower the large one's limit.

    The stand-in has no ``Stream.from_external``, as cupy 13 has none.
    """
    device, levels = CudaDevice(), levels_of(8)
    layout, record = RecordLayout(10, QuantiserConfig(3, 512)), torch.zeros(512, dtype=torch.uint8)
    plan = cuda_structs.record_plan(layout, Stamp(levels.digest, 2, 3), ())
    asked = [66_560, 49_920, 66_560, 0]
    for shared in asked:
        device.launch("alq::begin_record", 1, (plan, cuda_structs.group(layout), int(record.data_ptr())), shared)
    device.launch("alq::begin_record", 0, ())  # no blocks: nothing happens
    assert [shared for _, shared, _ in driver.launched] == asked
    assert {stream for _, _, stream in driver.launched} == {7}
    assert set(driver.limits.values()) == {MOST_SHARED - STATIC_SHARED}
    assert record[:3].numpy().tobytes() == b"ALQ"


def test_ranks_that_start_together_compile_a_kernel_once(nvrtc: Nvrtc, driver: Driver, tmp_path: Path) -> None:
    """Each locks a file that it opens itself, as processes do."""
    with ThreadPoolExecutor(4) as ranks:
        files = set(ranks.map(lambda _: cuda_kernels.compiled("alq::finish_decode", "90", tmp_path), range(4)))
    assert len(files) == 1 and len(nvrtc.compiled) == 1


def test_kernels_are_compiled_ahead_of_time_and_found(
    nvrtc: Nvrtc, driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["alq::begin_record", "alq::finish_decode"]
    monkeypatch.setattr(cuda_names, "every", lambda widths, kinds: names)
    folder = tmp_path / "ahead"
    command = ["kernels", "--arch", "sm_90", "--output", str(folder), "--bits", "3", "--dtype", "float32"]
    assert main([*command, "--jobs", "2"]) == 0
    assert f"export ALQ_HVD_KERNELS={folder}" in capsys.readouterr().out
    monkeypatch.setenv("ALQ_HVD_KERNELS", str(folder))
    for name in names:
        cuda_kernels.kernel(name, 0)
    assert len(nvrtc.compiled) == 1  # here: the processes of the command did the other
    assert len(list(folder.glob("*.cubin"))) == 2


def test_what_the_command_refuses(driver: Driver, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    cases = {
        "expected sm_ and a compute capability": ["--arch", "hopper"],
        "compute capability 8.0 or newer, got 7.5": ["--arch", "sm_75"],
        "dtype: expected some of float32, float16, bfloat16": ["--arch", "sm_90", "--dtype", "float64"],
        "jobs: expected at least 1, got 0": ["--arch", "sm_90", "--jobs", "0"],
        "expected a folder that can be written": ["--arch", "sm_90", "--output", str(tmp_path / "file")],
    }
    for text, arguments in cases.items():
        assert main(["kernels", *arguments]) == 2
        assert text in capsys.readouterr().err


def test_the_command_compiles_every_kernel_that_a_configuration_may_need() -> None:
    """The emulated device refuses to start any other, in all tests that use it."""
    names = cuda_names.every([3], ["alq::Half"])
    assert {"alq::encode<alq::Half, 3>", "alq::decode_rotated<alq::Half, 3, false>", "alq::recode<3, 8>"} <= set(names)
    assert len(names) == len(set(names)) and not any(", 4" in name for name in names)


def test_the_warning_of_the_mode_that_gpu_tests_use_is_no_error() -> None:
    warnings.warn(
        "Synchronization debug mode is a prototype feature and does not yet detect all synchronizing operations",
        stacklevel=1,
    )


@dataclass(frozen=True, eq=False)
class StreamingDevice(EmulatedDevice):
    """A device whose current stream the test chooses, and write down whose memory was kept."""

    current: list[str] = field(default_factory=lambda: ["first"])
    followed: list[str] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    @property
    def stream(self) -> str:
        return self.current[-1]

    def follow(self, stream: str) -> None:
        self.followed.append(stream)

    def keep(self, tensor: Tensor) -> None:
        self.kept.append(int(tensor.data_ptr()))


def test_memory_of_one_stream_is_kept_while_another_uses_it() -> None:
    """Gradients and their copies, sums, residuals and records; gradients of one stream are not looked at."""
    device, levels = StreamingDevice(), levels_of(8)
    codec, stamp = CudaCodec(device), Stamp(levels.digest, 2, 3)
    layout = RecordLayout(600, QuantiserConfig(3, 512))
    parts, out, residual = [torch.ones(200), torch.ones(400)], torch.empty(600), torch.zeros(600)
    total = torch.empty(600)
    record = codec.encode(parts, layout, levels, KEY, stamp)
    assert not {int(part.data_ptr()) for part in parts} & set(device.kept)
    device.kept.clear()

    device.current.append("second")
    codec.encode(parts, layout, levels, KEY, stamp, residual)
    codec.decode_sum([record], layout, levels, [stamp], 1.0, Parts((out,)))
    codec.statistics(total, layout.quantiser, 2)
    codec.arrays.depart([record])
    used = [*parts, out, residual, total, record]
    assert device.followed == ["first"]
    assert {int(tensor.data_ptr()) for tensor in used} <= set(device.kept)


def test_tables_that_are_dropped_are_kept_for_the_stream_that_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_arguments, "MOST_TABLES", 2)
    device = StreamingDevice()
    memory, tensors = cuda_arguments.Memory(device), [torch.ones(4) for _ in range(4)]
    addresses = [memory.address(tensor)[0] for tensor in tensors]
    assert device.kept == addresses[:2]
