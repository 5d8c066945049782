"""The CUDA kernels compile for the GPUs we promise, without spilling registers; no GPU is needed for that."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from alq_hvd.codec import cuda_kernels, native

NVCC = shutil.which("nvcc")
SOURCES = Path(native.__file__).parent
ARGUMENTS = {
    "encode": "alq::Group, alq::Tensors<T>, const alq::Tables*, alq::StreamKey, uint32_t, int, uint32_t, uint32_t*, "
    "float*",
    "encode_with_norms": "alq::Group, alq::Tensors<T>, const alq::Tables*, alq::StreamKey, uint32_t, const float*, "
    "const float*, uint32_t, uint32_t*, float*",
    "decode_sum": "alq::Records, alq::Group, const alq::Tables*, float, T* const*, const uint32_t*, uint32_t, "
    "uint32_t*",
    "recode": "alq::Records, alq::Group, const alq::Tables*, float, uint32_t*, alq::Group, const alq::Tables*, "
    "alq::StreamKey, uint32_t, int, uint32_t, uint32_t*",
    "bucket_norms": "alq::Group, alq::Tensors<T>, float*, float*",
    "statistics": "alq::Group, alq::Tensors<T>, const float*, const float*, alq::Bins, double*, double*, double*",
}
INSTANCES = [
    *[("encode", "float", bits) for bits in ("3", "4", "8")],
    ("encode", "alq::Half", "3"),
    ("encode", "alq::Brain", "3"),
    ("encode_with_norms", "float", "3"),
    *[("decode_sum", "float", bits) for bits in ("3", "4", "8")],
    ("decode_sum", "alq::Half", "3"),
    ("decode_sum", "alq::Brain", "3"),
    ("recode", "4", "8"),
    ("bucket_norms", "alq::Brain"),
    ("statistics", "float"),
]
RARE = ("statistics", "bucket_norms")
"""Run on scheduled steps, or for unusual bucket sizes: a few spilled bytes do no harm."""
MOST_REGISTERS = 85
"""At most this many a thread leave room for three blocks of 256 threads on a multiprocessor of 65 536 registers."""


def instantiated() -> str:
    lines = ['#include "codec.cu"']
    for name, *parameters in INSTANCES:
        arguments = ARGUMENTS[name].replace("<T>", f"<{parameters[0]}>").replace("T*", f"{parameters[0]}*")
        lines.append(f"template __global__ void alq::{name}<{', '.join(parameters)}>({arguments});")
    return "\n".join(lines) + "\n"


def nvrtc() -> ctypes.CDLL | None:
    """Return NVIDIA's run-time compiler from the wheel nvidia-cuda-nvrtc, if it is installed."""
    found = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in found.submodule_search_locations or []] if found else []
    libraries = [path for folder in folders for path in sorted(folder.rglob("libnvrtc.so*"))]
    return ctypes.CDLL(str(libraries[0])) if libraries else None


@pytest.mark.skipif(nvrtc() is None, reason="needs the wheel nvidia-cuda-nvrtc")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_the_run_time_compiler_takes_them_too(architecture: str) -> None:
    """As cupy will call it: no CUDA header at hand, kernels named by their template arguments."""
    library = nvrtc()
    assert library
    program = ctypes.c_void_p()
    source = cuda_kernels.SOURCE.encode()
    assert library.nvrtcCreateProgram(ctypes.byref(program), source, b"alq.cu", 0, None, None) == 0
    names = [f"alq::{name}<{', '.join(parameters)}>" for name, *parameters in INSTANCES]
    for name in [*names, "alq::begin_record", "alq::finish_decode"]:
        assert library.nvrtcAddNameExpression(program, name.encode()) == 0
    options = [option.encode() for option in (*cuda_kernels.OPTIONS, f"--gpu-architecture={architecture}")]
    status = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()
    assert library.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0 and size.value > 10_000


@pytest.mark.skipif(NVCC is None, reason="needs nvcc, CUDA's compiler, on PATH")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_kernels_compile_and_do_not_spill(architecture: str, tmp_path: Path) -> None:
    (tmp_path / "instances.cu").write_text(instantiated())
    options = [
        "-std=c++17",
        f"-arch={architecture}",
        "--fmad=false",
        "-cubin",
        "-Xptxas",
        "-v",
        "-Werror",
        "all-warnings",
    ]
    includes = [f"-I{SOURCES / 'csrc'}", f"-I{SOURCES / 'cuda'}"]
    command = [str(NVCC), *options, *includes, "instances.cu", "-o", "instances.cubin"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    names = re.findall(r"Compiling entry function '_ZN3alq\d+([a-z_]+?)(?:I\w+)?E", done.stderr)
    spilled = [int(count) for count in re.findall(r"(\d+) bytes spill stores", done.stderr)]
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", done.stderr)]
    assert len(names) == len(registers) == len(spilled) == len(INSTANCES) + 2  # two are not templates
    for name, used, bytes_spilled in zip(names, registers, spilled, strict=True):
        print(f"{architecture} {name}: {used} registers, {bytes_spilled} bytes spilled")
        assert used <= MOST_REGISTERS
        assert bytes_spilled == 0 or name in RARE, name
