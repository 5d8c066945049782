"""Imports run one way, without circles; heavy packages are imported in one place, and importing alq_hvd is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "alq_hvd"
LAYERS = (
    {"errors", "version"},
    {"backends", "log", "machine"},
    {"quantiser"},
    {"accumulation"},
    {"codec", "communicator"},
    {"exchange", "weights"},
    {"planning"},
    {"engine"},
    {"checkpoint", "run_record"},
    {"frontends"},
    {"monitoring", "slurm", "report"},
    {"__init__", "cli"},
    {"__main__"},
)
HEAVY = {"torch", "horovod", "mpi4py", "cupy", "cupyx", "cupy_backends"}
FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    """Return the package or module directly under alq_hvd that a module belongs to."""
    return module.split(".")[0]


def layer(name: str) -> int:
    found = [level for level, rooms in enumerate(LAYERS) if name in rooms]
    assert found, f"alq_hvd.{name} has no place in LAYERS: give it one"
    return found[0]


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted names a file imports, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> Iterator[str]:
    """Yield the modules of this package that a file imports, without the package's name."""
    for name in imported(path):
        inner = name.removeprefix("alq_hvd.")
        if inner == name:
            continue
        for module in (inner, inner.rpartition(".")[0]):
            if module in FILES or f"{module}.__init__" in FILES:
                yield module
                break


def test_a_room_imports_only_from_rooms_below_it() -> None:
    upward = [
        f"alq_hvd.{module} imports alq_hvd.{other}"
        for module, path in FILES.items()
        for other in own_imports(path)
        if room(other) != room(module) and layer(room(other)) >= layer(room(module))
    ]
    assert not upward


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {module: set(own_imports(path)) - {module} for module, path in FILES.items() if module != "__init__"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle of imports: {' <- '.join(error.args[1])}") from error


def test_only_backends_imports_heavy_packages() -> None:
    heavy = [
        f"alq_hvd.{module} imports {name}: go through alq_hvd.backends"
        for module, path in FILES.items()
        for name in imported(path)
        if name.split(".")[0] in HEAVY and module != "backends"
    ]
    assert not heavy


def test_the_top_level_has_few_modules_beside_its_rooms() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 10


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = f"import sys, alq_hvd; print(sorted({HEAVY!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100)
    assert run.stdout.strip() == "[]"
