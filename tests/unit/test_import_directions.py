"""Imports run one way, heavy packages are imported in one place, and importing alq_hvd itself is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "alq_hvd"
LAYERS = (
    {"errors", "version"},
    {"levels", "backends", "ledger", "machine"},
    {"config"},
    {"statistics", "wire", "plan", "probe"},
    {"codec", "communicator", "policies", "theory", "planning"},
    {"methods", "exchange", "adaptation", "groups"},
    {"options", "handshake", "fusion"},
    {"chosen_exchange", "connection", "tickets"},
    {"aggregator"},
    {"compression", "checkpoint", "run_record"},
    {"elastic"},
    {"constructors", "slurm", "report"},
    {"__init__", "cli"},
    {"__main__"},
)
HEAVY = {"torch", "horovod", "mpi4py", "cupy", "cupyx", "cupy_backends"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """Return the package or module directly under alq_hvd that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer(name: str) -> int:
    found = [level for level, rooms in enumerate(LAYERS) if name in rooms]
    assert found, f"alq_hvd.{name} has no place in LAYERS: give it one"
    return found[0]


def imported(path: Path) -> set[str]:
    """Return the dotted names a file imports, also those inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rooms_below_it(path: Path) -> None:
    own = room(path)
    for name in imported(path):
        if not name.startswith("alq_hvd."):
            continue
        other = name.split(".")[1]
        if (PACKAGE / other).is_dir() or (PACKAGE / f"{other}.py").exists():
            assert other == own or layer(other) < layer(own), f"alq_hvd.{own} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_backends_imports_heavy_packages(path: Path) -> None:
    heavy = {name.split(".")[0] for name in imported(path)} & HEAVY
    assert not heavy or room(path) == "backends", f"{path} imports {heavy}: go through alq_hvd.backends"


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = f"import sys, alq_hvd; print(sorted({HEAVY!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"
