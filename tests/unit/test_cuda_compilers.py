"""The kernels compile with the run-time compilers that users have, and cupy gets whole machine code of them."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from alq_hvd import backends
from alq_hvd.codec.cuda_kernels import compiled, whole
from alq_hvd.errors import BackendUnavailable
from tests.support.compile_matrix import compile_all, disassembled, disassembler, few
from tests.support.nvrtc import Nvrtc, NVRTCError, find, requirements

pytestmark = pytest.mark.timeout(300)


def nvrtc_of(version: str) -> Nvrtc:
    if find(version) is None:
        pytest.skip(f"needs the run-time compiler of CUDA {version}: make compilers")
    return Nvrtc(version)


def test_every_kernel_compiles_with_every_compiler() -> None:
    """For a GPU each, two at a time; ``make kernels`` tries all GPUs."""
    cases = {"12.1": 80, "12.6": 86, "12.9": 120, "13.0": 90, "": 100}
    assert set(cases) == {"", *requirements()}
    compilers = {version: nvrtc_of(version) for version in cases}

    def problem(version: str) -> str:
        try:
            code = compile_all(compilers[version], cases[version], few())
        except NVRTCError as error:
            return f"CUDA {version} for sm_{cases[version]}: {error}"
        text = disassembled(code) if disassembler() is not None else ""
        return "" if not text or text.count("EXIT") >= len(few()) else f"CUDA {version}: machine code is missing"

    with ThreadPoolExecutor(2) as pool:
        assert [each for each in pool.map(problem, cases) if each] == []


def test_machine_code_is_whole_again() -> None:
    """Cupy takes its last byte for the end of a text."""
    code = compile_all(nvrtc_of(""), 90, ["alq::finish_decode"])
    segments, sections = struct.unpack_from("<QQ", code, 32)
    assert len(code) >= max(segments, sections)
    assert whole(code) == code  # a cupy that cuts off nothing
    assert whole(code[:-1]) == code
    if disassembler() is not None:
        assert "EXIT" in disassembled(code)
        with pytest.raises(AssertionError):
            disassembled(code[:-1])


def test_gpus_that_are_too_old_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvrtc = nvrtc_of("")
    monkeypatch.setattr(backends, "cupy", lambda: SimpleNamespace(cuda=SimpleNamespace(nvrtc=nvrtc)))
    with pytest.raises(BackendUnavailable, match=r"capability 8\.0 or newer, got 7\.5 on sm_75: take codec='na"):
        compiled("alq::finish_decode", "75", tmp_path)
    assert nvrtc.compiled == []
