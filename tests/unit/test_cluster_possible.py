"""Whether CI can run the cluster tests is found out, never assumed: each reason against it is told in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = ("bash", "basename", "dirname", "mktemp", "rm", "cat", "env", "grep")
"""What the scripts use beside the programs that stand for a machine."""
STAND_INS = {"id": "echo 0", "unshare": "", "nsenter": "", "setpriv": "", "mount": "", "mknod": "", "install": ""}


def machine(directory: Path, **changed: str | None) -> dict[str, str]:
    """Return the environment of a machine on which these programs do what their text says; ``None``: there is none."""
    for program in PROGRAMS:
        found = shutil.which(program)
        assert found is not None
        (directory / program).symlink_to(found)
    for program, text in {**STAND_INS, **changed}.items():
        if text is not None:
            (directory / program).write_text(f"#!/bin/bash\n{text}\n")
            (directory / program).chmod(0o755)
    return {**{name: value for name, value in os.environ.items() if name != "PATH"}, "PATH": str(directory)}


def run(script: str, environment: dict[str, str]) -> tuple[int, str]:
    command = ["bash", str(ROOT / "tests" / "cluster" / script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


OBSTACLES = [
    ({"id": "echo 1000"}, "they need root (this is user 1000)"),
    ({"setpriv": None}, "setpriv is missing (Debian's util-linux and mount, coreutils)"),
    ({"mknod": "echo mknod: not permitted >&2; exit 1"}, "no device files can be made: not permitted"),
    (
        {"unshare": "echo 'unshare: unshare failed: Operation not permitted' >&2; exit 1"},
        "no pretend hosts can be made: unshare: unshare failed: Operation not permitted",
    ),
    (
        # What runs inside is run outside here, by a machine without the right to mount.
        {"unshare": 'while [[ $1 == --* ]]; do shift; done; exec "$@"', "mount": "echo 'mount: denied' >&2; exit 32",
         "hostname": ""},
        "no pretend hosts can be made: mount: denied",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "reason"), OBSTACLES)
def test_each_obstacle_is_told_in_one_line_and_is_no_failure_of_ci(
    changed: dict[str, str | None], reason: str, tmp_path: Path
) -> None:
    environment = machine(tmp_path, **changed)
    status, printed = run("possible.sh", environment)
    assert status == 1
    assert printed.startswith(reason)
    assert printed.count("\n") == 1
    status, printed = run("quick.sh", environment)
    assert (status, printed.count("\n")) == (0, 1)
    assert printed.startswith(f"The cluster tests did not run here: {reason}")


def test_a_machine_that_allows_everything_is_told_so_silently(tmp_path: Path) -> None:
    assert run("possible.sh", machine(tmp_path)) == (0, "")


def test_where_it_is_possible_ci_runs_them_with_a_limit_and_their_failure_counts(tmp_path: Path) -> None:
    arguments = tmp_path / "arguments"
    environment = machine(
        tmp_path,
        **{"timeout": f'printf "%s\\n" "$@" >{arguments}; exit 7', "dpkg-query": "echo install ok installed"},
    )  # fmt: skip
    assert run("quick.sh", environment) == (7, "")
    words = arguments.read_text().split()
    assert words[:2] == ["--kill-after=30", "900"]
    chosen = [word for word in words if word.startswith("tests/cluster/")]
    assert len(chosen) >= 3
    for name in chosen:
        path, _, test = name.partition("::")
        assert f"def {test.partition('[')[0]}(" in (ROOT / path).read_text() or not test


def test_ci_asks() -> None:
    assert "tests/cluster/quick.sh" in (ROOT / ".ci" / "run").read_text()
