"""``tests/gpu/run.sh`` on a machine like the one it is for, but for the GPU: no Horovod, no MPI, no .venv."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.emulated_device import library, needs_compiler
from tests.support.launch import torchrun

ROOT = Path(__file__).parents[2]
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("horovod", "mpi4py", "mlxtend", "cupy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a machine on which some packages cannot be imported."""
    (tmp_path / "usercustomize").mkdir()
    (tmp_path / "usercustomize" / "sitecustomize.py").write_text(BLOCKED)
    return {**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path), "PYTHONPATH": str(tmp_path / "usercustomize")}


def run(machine: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "tests" / "gpu" / "run.sh"), *arguments]
    return subprocess.run(command, env=machine, capture_output=True, text=True, timeout=280, cwd="/")


def test_the_tests_are_found_without_horovod_and_mpi(machine: dict[str, str], tmp_path: Path) -> None:
    """All are skipped, for want of cupy and a GPU, and the table says so last."""
    done = run(machine)
    assert done.returncode == 0, done.stdout + done.stderr
    stored = json.loads((tmp_path / "gpu-tests.json").read_text())
    assert set(stored["files"]) == {
        "test_cuda_codec",
        "test_cuda_codec_drawn",
        "test_cuda_codec_rotated",
        "test_cuda_codec_widths",
        "test_cuda_ddp",
    }
    assert all(set(found) == {"skipped"} and found["skipped"] > 1 for found in stored["files"].values())
    assert list(stored["skipped_because"]) == ["needs cupy: see the extras cuda12 and cuda13"]
    assert "test_cuda_training.py is left out: it needs Horovod" in done.stdout
    assert done.stdout.rstrip().endswith(f"kept in {tmp_path / 'gpu-tests.json'}")


@needs_compiler
def test_ranks_that_share_a_device_train_under_ddp(machine: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of the GPU test, with emulated kernels: two ranks over Gloo, without Horovod and MPI."""
    library()  # once, not in each rank
    monkeypatch.setenv("PYTHONPATH", machine["PYTHONPATH"])
    program = str(ROOT / "tests" / "gpu" / "ddp_ranks.py")
    (first, second), _ = torchrun(2, program, "gloo", "emulated", timeout=250)
    for case, weights in first.items():
        assert second[case] == weights, case
        assert weights["device"] == weights["host"], case
    assert len({weights["device"] for weights in first.values()}) == len(first)


def test_the_benchmark_says_what_is_missing(machine: dict[str, str]) -> None:
    done = run(machine, "bench")
    assert done.returncode != 0
    assert "torch finds no CUDA device" in done.stderr


def test_anything_else_is_refused(machine: dict[str, str]) -> None:
    done = run(machine, "everything")
    assert done.returncode == 2
    assert "expected test, bench or sanitize, got everything" in done.stderr


@pytest.mark.skipif(shutil.which("python3.12") is None, reason="needs a Python 3.12")
def test_the_sources_are_those_of_python_3_12_too(tmp_path: Path) -> None:
    program = (
        "import ast, pathlib, sys\n"
        "for part in ('alq_hvd', 'benchmarks', 'tests/gpu', 'tests/support'):\n"
        "    for path in pathlib.Path(part).rglob('*.py'):\n"
        "        compile(path.read_text(), str(path), 'exec')\n"
        "print(sys.version_info[:2])"
    )
    done = subprocess.run(
        ["python3.12", "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    if "not installed" in done.stderr + done.stdout or done.returncode == 127:
        pytest.skip("python3.12 is a name without an interpreter behind it")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(3, 12)"
