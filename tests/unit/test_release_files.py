"""What a release states in several places is the same in all of them."""

from __future__ import annotations

import re
import subprocess
from configparser import ConfigParser
from pathlib import Path

import yaml

from alq_hvd.version import __version__
from tests.support.wheel_contents import COMPILED, LARGEST, trouble

ROOT = Path(__file__).parents[2]
KEPT = (".py", ".typed", ".cu", ".cuh", ".h", ".j2", ".css", ".in")
"""How the names of files end that an installed package needs."""


def test_the_version_to_cite_is_that_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["cff-version"] == "1.2.0" and citation["authors"] and citation["message"]


def test_wheels_are_built_for_every_python_that_is_supported() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    supported = re.findall(r"Python :: 3\.(\d+)", setup["metadata"]["classifiers"])
    settings = (ROOT / "pyproject.toml").read_text()
    assert f'build = "{" ".join(f"cp3{minor}-*" for minor in supported)}"' in settings
    named = next(line for line in settings.splitlines() if line.startswith("test-command"))
    assert all((ROOT / file).exists() for file in re.findall(r"tests/\S+\.py", named))
    assert f"versions=({' '.join(f'3.{minor}' for minor in supported)})" in (ROOT / "tests" / "matrix.sh").read_text()


def test_the_hosted_checks_run_what_everybody_runs() -> None:
    checks = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text())
    assert checks["jobs"]["checks"]["steps"][-1] == {"run": ".ci/run"}
    for file in (ROOT / ".github").rglob("*.yml"):
        yaml.safe_load(file.read_text())


def test_golden_files_are_never_text() -> None:
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "golden").rglob("*.bin"))
    command = ["git", "check-attr", "text", "--", *files]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()
    assert len(told) == len(files) > 8 and all(line.endswith("text: unset") for line in told)


def test_every_make_target_is_phony() -> None:
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    targets = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
    phony = set(re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split())
    assert targets == phony


def test_a_wheel_that_lacks_a_file_or_holds_another_is_told() -> None:
    source = [path.relative_to(ROOT).as_posix() for path in (ROOT / "alq_hvd").rglob("*") if path.suffix in KEPT]
    whole = [*source, *(f"alq_hvd/{name}.cpython-311.so" for name in COMPILED), "alq_hvd-0.1.0.dist-info/METADATA"]
    kernel = "alq_hvd/codec/cuda/codec.cu"
    for names, size, told in (
        (whole, LARGEST, []),
        ([name for name in whole if name != kernel], 1, [f"missing: {kernel}"]),
        ([name for name in whole if "_shield." not in name], 1, ["missing: alq_hvd/checkpoint/_shield.*.so"]),
        ([*whole, "tests/conftest.py"], 1, ["does not belong there: tests/conftest.py"]),
        (whole, LARGEST + 1, [f"too large: expected at most {LARGEST:,} bytes, got {LARGEST + 1:,}"]),
    ):
        assert trouble(names, source, size) == told
