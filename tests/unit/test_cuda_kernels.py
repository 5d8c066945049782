"""Kernels are compiled once, with exact arithmetic, and again when anything they are made of changes."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from alq_hvd import backends
from alq_hvd.codec import cuda_kernels
from alq_hvd.codec.cuda_kernels import OPTIONS, SOURCE, cache_folder, compiled, symbol_of
from alq_hvd.errors import BackendUnavailable
from tests.support.nvrtc import Nvrtc, needs_nvrtc

pytestmark = [needs_nvrtc, pytest.mark.timeout(300)]


@pytest.fixture
def nvrtc(monkeypatch: pytest.MonkeyPatch) -> Nvrtc:
    compiler = Nvrtc()
    monkeypatch.setattr(backends, "cupy", lambda: SimpleNamespace(cuda=SimpleNamespace(nvrtc=compiler)))
    return compiler


def test_a_kernel_is_compiled_once_and_found_by_its_symbol(nvrtc: Nvrtc, tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there yet"
    first = compiled("alq::finish_decode", "90", folder)
    assert compiled("alq::finish_decode", "90", folder) == first
    assert len(nvrtc.compiled) == 1
    assert list(folder.glob("*.cubin")) == [first]
    assert symbol_of(first).startswith("_ZN3alq13finish_decode")
    assert symbol_of(first).encode() in first.read_bytes()


def test_another_gpu_kernel_or_source_is_compiled_anew(
    nvrtc: Nvrtc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {compiled("alq::begin_record", capability, tmp_path) for capability in ("80", "90")}
    files.add(compiled("alq::finish_decode", "90", tmp_path))
    monkeypatch.setattr(cuda_kernels, "_sources", lambda: "a header was edited")
    files.add(compiled("alq::finish_decode", "90", tmp_path))
    assert len(files) == len(nvrtc.compiled) == 4


def test_a_folder_that_can_not_be_written_costs_time_only(
    nvrtc: Nvrtc, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        file = compiled("alq::finish_decode", "90", tmp_path / "file" / "below")
    assert file.is_file()
    assert "kernels are compiled again by every process" in caplog.text


def test_a_gpu_that_the_compiler_does_not_know_is_named(nvrtc: Nvrtc, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match=r"compile alq::finish_decode for sm_199, got .*(?s:.)*codec='native'"):
        compiled("alq::finish_decode", "199", tmp_path)


def test_kernels_are_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "alq-hvd" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "alq-hvd" / "kernels"


@pytest.mark.parametrize(
    "name",
    [
        "alq::encode<float, 3>",
        "alq::decode_sum<float, 3, false>",
        "alq::statistics<float>",
        "alq::encode_rotated<float, 3, true>",
        "alq::decode_rotated<float, 3, false>",
    ],
)
def test_arithmetic_keeps_subnormal_numbers_and_rounds_each_operation(nvrtc: Nvrtc, name: str) -> None:
    program = nvrtc.createProgram(SOURCE, "alq.cu", (), ())
    nvrtc.addNameExpression(program, name)
    nvrtc.compileProgram(program, (*OPTIONS, "--gpu-architecture=compute_90"))
    instructions = set(re.findall(r"^\s+([a-z]+\.[a-z0-9._]*f(?:32|64))", nvrtc.getPTX(program).decode(), re.M))
    assert instructions & {"mul.rn.f32", "mul.rn.f64", "add.rn.f64"}
    assert [each for each in instructions if re.search(r"\.(ftz|approx|full)\b", each)] == []
