"""C++ programs that test the kernels where Python cannot look: past the ends of buffers, and at every divisor."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from alq_hvd.codec import native

SOURCES = Path(native.__file__).parent / "csrc"
PROGRAMS = Path(__file__).parents[1] / "native"
COMPILER = shutil.which("g++") or shutil.which("c++")
CROSS_COMPILER, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64-static")
STRICT = ["-std=c++17", "-ffp-contract=off", "-Wall", "-Wno-psabi", f"-I{SOURCES}"]

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler, as building alq_hvd does"),
    pytest.mark.timeout(400),
]


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_kernels_never_leave_their_buffers(tmp_path: Path) -> None:
    """Random gradients and records of random bytes under AddressSanitizer, every instruction set."""
    assert COMPILER
    jobs = []
    for source in [PROGRAMS / "fuzz_kernels.cpp", *sorted(SOURCES.glob("kernels_*.cpp"))]:
        command = [COMPILER, "-O1", "-fsanitize=address", *STRICT, "-c", str(source), "-o", str(tmp_path / source.stem)]
        jobs.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    for job in jobs:
        _, errors = job.communicate(timeout=300)
        assert job.returncode == 0, errors
    objects = sorted(tmp_path.iterdir())
    assert len(objects) == 4
    run(COMPILER, "-fsanitize=address", *objects, "-o", tmp_path / "fuzz")
    assert run(tmp_path / "fuzz", "20000", "1").startswith("20000 cases, checksum ")


@pytest.mark.skipif(
    not (CROSS_COMPILER and EMULATOR), reason="needs g++-aarch64-linux-gnu and qemu-user-static (apt-get install)"
)
def test_another_kind_of_processor_gives_the_same_bytes(tmp_path: Path) -> None:
    """64-bit Arm, compiled as on a machine of that kind and run instruction by instruction; and so does any vector."""
    assert COMPILER and CROSS_COMPILER and EMULATOR
    own, other = tmp_path / "own", tmp_path / "other"
    sources = [PROGRAMS / "fuzz_kernels.cpp", *sorted(SOURCES.glob("kernels_*.cpp"))]
    run(COMPILER, "-O2", *STRICT, *sources, "-o", own)
    run(CROSS_COMPILER, "-O2", *STRICT, "-static", *sources, "-o", other)
    expected = run(own, "300", "1")
    assert run(own, "300", "1", "baseline") == expected
    assert run(EMULATOR, other, "300", "1") == expected


def test_dividing_by_the_reciprocal_is_dividing(tmp_path: Path) -> None:
    """Every 16th odd significand and its hardest dividends; STRIDE 1 took all 2.3e9 and found none wrong either."""
    assert COMPILER
    program = tmp_path / "check_divide"
    run(COMPILER, "-O2", *STRICT, PROGRAMS / "check_divide.cpp", "-o", program)
    tried, wrong = (int(word) for word in run(program, "16").split() if word.isdigit())
    assert tried > 10**8 and wrong == 0
