"""The CUDA kernels compile for the GPUs we promise, without spilling registers; no GPU is needed for that."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from alq_hvd.codec import native

NVCC = shutil.which("nvcc")
SOURCES = Path(native.__file__).parent
TABLES, KEY = "const alq::Tables*", "alq::StreamKey"
ENCODE = f"alq::Group, alq::Tensors<T>, {TABLES}, {KEY}, uint32_t, int, uint32_t, uint32_t*, float*"
DECODE = f"alq::Records, alq::Group, {TABLES}, float, T* const*, const uint32_t*, uint32_t, uint32_t*"
BY_WIDTH = "const alq::TablesByWidth*, alq::Placing"
ENCODE_BY_WIDTH = ENCODE.replace(TABLES, f"{BY_WIDTH}, const int32_t*").replace("int, uint32_t,", "int,")
DECODE_BY_WIDTH = DECODE.replace(TABLES, BY_WIDTH)
ARGUMENTS = {
    "encode": ENCODE,
    "encode_rotated": ENCODE,
    "encode_with_norms": f"alq::Group, alq::Tensors<T>, {TABLES}, {KEY}, uint32_t, const float*, const float*, "
    "const float*, uint32_t, uint32_t*, float*",
    "decode_sum": DECODE,
    "decode_rotated": f"{DECODE}, int",
    "block_energies": "alq::Group, alq::Tensors<T>, int, int32_t*, uint32_t*, uint32_t*",
    "encode_by_width": ENCODE_BY_WIDTH,
    "encode_rotated_by_width": ENCODE_BY_WIDTH,
    "decode_by_width": DECODE_BY_WIDTH,
    "decode_rotated_by_width": f"{DECODE_BY_WIDTH}, int",
    "recode": f"alq::Records, alq::Group, {TABLES}, uint32_t*, alq::Group, {TABLES}, {KEY}, uint32_t, int, "
    "uint32_t, uint32_t*",
    "bucket_norms": "alq::Group, alq::Tensors<T>, float*, float*",
    "statistics": "alq::Group, alq::Tensors<T>, const float*, const float*, alq::Bins, double*, double*, double*",
    "projection_scales": f"alq::Group, alq::Tensors<float>, {TABLES}, const float*, const float*, float*",
    "rotate_group": "alq::Group, alq::Tensors<T>, uint32_t, int, float*",
    "keep_lost": "alq::Group, alq::Tensors<T>, uint32_t, int, float*, float*",
    "sum_run": f"alq::Records, uint32_t, alq::Group, {TABLES}, uint32_t*, float*",
    "add_run": "alq::Records, uint32_t, alq::Group, int, float*, float*, float, T* const*, const uint32_t*, uint32_t",
}
INSTANCES = [
    *[("encode", "float", bits) for bits in ("3", "8")],
    ("encode", "alq::Brain", "4"),
    ("encode_rotated", "float", "8", "false"),
    ("encode_rotated", "alq::Half", "2", "true"),
    ("encode_with_norms", "float", "3"),
    *[("decode_sum", "float", bits, "false") for bits in ("3", "8")],
    *[("decode_sum", kind, "4", "true") for kind in ("float", "alq::Brain")],
    *[("decode_rotated", "float", bits, "false") for bits in ("3", "8")],
    ("decode_rotated", "alq::Brain", "4", "true"),
    ("recode", "4", "8"),
    ("block_energies", "alq::Half"),
    ("encode_by_width", "float"),
    ("encode_rotated_by_width", "float", "true"),
    ("decode_by_width", "alq::Brain", "true"),
    ("decode_rotated_by_width", "float", "false"),
    ("bucket_norms", "alq::Brain"),
    ("statistics", "float"),
    ("projection_scales", "3"),
    *[("rotate_group", "float", fits) for fits in ("true", "false")],
    ("keep_lost", "float", "true"),
    ("sum_run", "3", "true"),
    ("add_run", "float", "true"),
]
"""Other widths and types than ``test_cuda_instructions.py`` compiles for sm_90 with the run-time compiler."""
RARE = ("statistics", "bucket_norms", "projection_scales", "rotate_group", "keep_lost", "add_run")
"""Run on scheduled steps, or for unusual bucket sizes: there more registers, or a few spilled bytes, do no harm."""
FEW_BYTES = {"decode_rotated": 96, "encode_rotated": 24, "decode_rotated_by_width": 16}
"""Outside their loops: compilers differ in how many."""
MOST_REGISTERS = 85
"""At most this many a thread leave room for three blocks of 256 threads on a multiprocessor of 65 536 registers."""


def instantiated() -> str:
    lines = ['#include "codec.cu"']
    for name, *parameters in INSTANCES:
        arguments = ARGUMENTS[name].replace("<T>", f"<{parameters[0]}>").replace("T*", f"{parameters[0]}*")
        lines.append(f"template __global__ void alq::{name}<{', '.join(parameters)}>({arguments});")
    return "\n".join(lines) + "\n"


@pytest.mark.skipif(NVCC is None, reason="needs nvcc, CUDA's compiler, on PATH")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("architecture", ["sm_80"])
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
    assert len(names) == len(registers) == len(spilled) == len(INSTANCES) + 4  # four are not templates
    for name, used, bytes_spilled in zip(names, registers, spilled, strict=True):
        print(f"{architecture} {name}: {used} registers, {bytes_spilled} bytes spilled")
        assert used <= MOST_REGISTERS or name in RARE, name
        assert bytes_spilled <= FEW_BYTES.get(name, 0) or name in RARE, name
