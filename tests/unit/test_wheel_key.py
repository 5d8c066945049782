from __future__ import annotations

import configparser
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from alq_hvd.cli.checks import CHECKOUT
from tests.support.cases import each


@pytest.fixture(scope="module")
def wheel_key() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wheel_key", CHECKOUT / "launch/wheel_key.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PARTS: dict[str, object] = {
    "recipe": 1,
    "horovod": "0.28.1",
    "python": "cpython-311-x86_64-linux-gnu",
    "torch": "2.13.0+cpu",
    "mpi": "mpirun (Open MPI) 4.1.4",
    "mpi_compiler": "g++ -I/usr/include/openmpi",
    "compiler": "12.2.0",
    "c_library": "glibc 2.36",
    "machine": "x86_64",
    "processor_flags": ["avx", "f16c", "fma"],
    "variables": {},
}


def test_key_is_readable_and_stable(wheel_key: ModuleType) -> None:
    """A key that changes without a cause makes every user wait for a build: change the recipe when it must."""
    assert wheel_key.key(PARTS) == "cpython-311-x86_64-linux-gnu-torch2.13.0+cpu-OpenMPI-4.1.4-dd583c724031"


@each("part", PARTS)
def test_every_part_changes_the_key(wheel_key: ModuleType, part: str) -> None:
    assert wheel_key.key({**PARTS, part: "other"}) != wheel_key.key(PARTS)


def test_inputs_are_those_of_the_key_and_repeatable(wheel_key: ModuleType) -> None:
    assert wheel_key.inputs("0.28.1").keys() == PARTS.keys()
    assert wheel_key.inputs("0.28.1") == wheel_key.inputs("0.28.1")


def test_only_variables_of_the_build_matter(wheel_key: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = wheel_key.inputs("0.28.1")
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", "5")
    monkeypatch.setenv("HOROVOD_RANK", "1")
    assert wheel_key.inputs("0.28.1") == before
    monkeypatch.setenv("HOROVOD_GPU_OPERATIONS", "NCCL")
    assert wheel_key.inputs("0.28.1")["variables"] == {"HOROVOD_GPU_OPERATIONS": "NCCL"}


def test_processor_flags(wheel_key: ModuleType) -> None:
    assert wheel_key.processor_flags("processor : 0\nflags\t\t: fpu avx avx2 fma\n\nflags : avx f16c") == ["avx", "fma"]
    assert wheel_key.processor_flags("") == []


def test_missing_mpi_is_part_of_the_key_not_an_error(
    wheel_key: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert wheel_key.inputs("0.28.1")["mpi"] == "none"
    assert wheel_key.key(wheel_key.inputs("0.28.1"))


def test_build_requirements_agree_with_the_package() -> None:
    """The few ranges that are needed before the package can be installed are written twice; they must not differ."""
    lines = (CHECKOUT / "launch/requirements-build.txt").read_text().splitlines()
    build = {line for line in lines if line and not line.startswith("#")}
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg")
    runtime = (setup["options"]["install_requires"] + setup["options.extras_require"]["mpi"]).split()
    assert {line for line in runtime if line.startswith(("numpy", "mpi4py"))} <= build
    pyproject = (CHECKOUT / "pyproject.toml").read_text()
    for name in ("setuptools", "wheel", "pybind11"):
        (line,) = (line for line in build if line.startswith(name))
        assert f'"{line}"' in pyproject
