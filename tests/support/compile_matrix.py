"""Every kernel, compiled with every run-time compiler at hand for every GPU that it knows, and disassembled.

python -m tests.support.compile_matrix [--few]    # or: make kernels
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from alq_hvd.codec import cuda_names
from alq_hvd.codec.cuda_kernels import OLDEST, OPTIONS, SOURCE, whole
from tests.support.nvrtc import Nvrtc, NVRTCError, find, requirements

CAPABILITIES = (75, 80, 86, 90, 100, 120)
"""Of the GPUs that are tried; 75 is refused before it is compiled for."""


def few() -> list[str]:
    """Return one instance of each kernel: with more rounds of rotation rather than fewer, in shared memory."""
    names = {name.split("<")[0]: name for name in cuda_names.every([3], ["float"]) if not name.endswith("false>")}
    return list(names.values())


def capabilities(nvrtc: Nvrtc) -> list[int]:
    """Return those of ``CAPABILITIES`` that our kernels and the compiler know."""
    return [each for each in CAPABILITIES if each >= OLDEST and each in nvrtc.getSupportedArchs()]


def compile_all(nvrtc: Nvrtc, capability: int, names: Sequence[str]) -> bytes:
    """Return the machine code of the kernels, as cupy would be given it.

    Raises:
        NVRTCError: with what the compiler said.
    """
    program = nvrtc.createProgram(SOURCE, "alq.cu", (), ())
    try:
        for name in names:
            nvrtc.addNameExpression(program, name)
        try:
            nvrtc.compileProgram(program, (*OPTIONS, f"--gpu-architecture=sm_{capability}"))
        except NVRTCError as error:
            raise NVRTCError(f"{error}: {nvrtc.getProgramLog(program)[:2000]}") from error
        return whole(nvrtc.getCUBIN(program))
    finally:
        nvrtc.destroyProgram(program)


def disassembler() -> Path | None:
    """Return nvdisasm, of the wheel nvidia-cuda-nvdisasm; ``None`` where it is not installed."""
    for folder in map(Path, sys.path):
        found = sorted((folder / "nvidia").glob("cu*/bin/nvdisasm"))
        if found:
            return found[0]
    return None


def disassembled(code: bytes) -> str:
    """Return the text of machine code; one that is cut short is refused."""
    program = disassembler()
    assert program is not None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        done = subprocess.run([str(program), "--print-code", file.name], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def main() -> int:
    """Print a line for each compiler and GPU, and return how many did not compile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", action="store_true", help="one instance of each kernel")
    names = few() if parser.parse_args().few else cuda_names.every(range(1, 9), cuda_names.TYPES.values())
    failed = 0
    for version in ("", *requirements()):
        if find(version) is None:
            print(f"CUDA {version or 'of .venv'}: not here; make compilers fetches it")
            continue
        nvrtc = Nvrtc(version)
        for capability in capabilities(nvrtc):
            start = time.perf_counter()
            try:
                found = len(disassembled(compile_all(nvrtc, capability, names)).splitlines())
                said = f"{len(names)} kernels, {found} lines of machine code"
            except NVRTCError as error:
                failed, said = failed + 1, f"FAILED: {error}"
            number = ".".join(map(str, nvrtc.getVersion()))
            print(f"CUDA {number} sm_{capability}: {said}, {time.perf_counter() - start:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
