"""A checkout in a temporary directory whose python, pip, apt-get and MPI are stand-ins that note their calls."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from alq_hvd.cli.checks import CHECKOUT

STAND_IN = """#!/bin/sh
echo "{name} $*" >>"{calls}"
{body}
"""

# -c, - and wheel_key.py are run by the real interpreter, for the scripts read their answers.
EXTENSIONS = tuple(
    f"alq_hvd/{name}.stand-in.so" for name in ("codec/_native", "accumulation/_native", "checkpoint/_shield")
)
PYTHON = """case "$*" in
    *_base_executable*) echo "$0" ;;
    "-c import horovod"*) ;;
    "-c "* | "- "* | *wheel_key.py*) exec {real} "$@" ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *" wheel "*)
        while [ "$1" != --wheel-dir ]; do shift; done
        touch "$2/half-built"
        [ -z "$BREAK_BUILD" ] || {{ echo "error: the compiler gave up"; exit 1; }}
        touch "$2/horovod-0.28.1-cp311-cp311-linux_x86_64.whl" ;;
    *" -e "* | *build_ext*) touch {extensions} ;;
esac"""

TOOLS = "bash sh env cat cut find paste sed tail grep mkdir mv rm cp touch chmod mktemp flock nproc dirname sha256sum"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Hold a checkout and a PATH of stand-ins."""

    root: Path

    @property
    def programs(self) -> Path:
        return self.root / "programs"

    @property
    def calls_file(self) -> Path:
        return self.root / "calls"

    @property
    def wheels(self) -> Path:
        return self.root / "cache" / "wheels"

    def program(self, name: str, body: str = "") -> None:
        """Put a stand-in on the PATH."""
        path = self.programs / name
        path.write_text(STAND_IN.format(name=name, calls=self.calls_file, body=body))
        path.chmod(0o755)

    def calls(self) -> list[str]:
        """Return what was called since the last question, without the questions of the scripts themselves."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return [line for line in lines if line.startswith(("python3 -m", "python3 setup.py", "apt-get"))]

    def run(self, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run setup.sh with standard input closed, as CI does."""
        environment = {
            "PATH": str(self.programs),
            "HOME": str(self.root),
            "CI": "true",
            "ALQ_HVD_CACHE": str(self.root / "cache"),
            "ALQ_HVD_SYSTEM_IMAGES": str(self.root / "images"),
            **variables,
        }
        return subprocess.run(
            ["bash", str(self.root / "checkout/launch/setup.sh")],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
        )


def make_sandbox(root: Path, user: int = 1000) -> Sandbox:
    """Return a sandbox whose system has everything and whose user has the number ``user`` (0: root)."""
    sandbox = Sandbox(root)
    checkout = root / "checkout"
    shutil.copytree(CHECKOUT / "launch", checkout / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "setup.py", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, checkout / name)
    (checkout / "alq_hvd/codec/csrc").mkdir(parents=True)
    (checkout / "alq_hvd/codec/csrc/native.cpp").write_text("// one\n")
    for source in ("accumulation/narrow.cpp", "checkpoint/shield.cpp"):
        (checkout / "alq_hvd" / source).parent.mkdir(parents=True)
        (checkout / "alq_hvd" / source).write_text("// one\n")
    sandbox.programs.mkdir()
    for tool in TOOLS.split():
        (sandbox.programs / tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")
    sandbox.program("id", f"echo {user}")
    # The real interpreter behind -c, with this environment's packages: torch's version is part of the wheel's key.
    sandbox.program("python3", PYTHON.format(real=sys.executable, extensions=" ".join(EXTENSIONS)))
    sandbox.program("mpirun", 'echo "mpirun (Open MPI) 4.1.4"')
    sandbox.program("cmake", 'echo "cmake version 3.25.1"')
    for name in ("g++", "make", "mpicxx"):
        sandbox.program(name)
    (root / "images").mkdir()
    (root / "images/train-images-idx3-ubyte.gz").touch()
    return sandbox
