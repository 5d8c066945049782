"""``cupy.cuda.nvrtc`` without cupy: NVIDIA's run-time compilers, from their wheels, which need no GPU.

One is in ``.venv`` (the extra ``test``). The older ones that users have are kept in the user's cache, a folder each:

python -m tests.support.nvrtc    # or: make compilers
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

LISTED = Path(__file__).with_name("requirements-nvrtc.txt")
"""A compiler a line."""


def requirements() -> dict[str, str]:
    """Return what pip is asked for, by the version of CUDA: ``12.1``, ..."""
    lines = [line.strip() for line in LISTED.read_text().splitlines()]
    listed = [line for line in lines if line and not line.startswith("#")]
    return {".".join(line.split("==")[1].split(".")[:2]): line for line in listed}


def cache_folder() -> Path:
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("ALQ_HVD_CACHE") or users / "alq-hvd") / "nvrtc"


def library_in(*folders: Path) -> Path | None:
    """Return the first compiler there is below ``folders``."""
    found = [path for folder in folders for path in sorted(folder.rglob("libnvrtc.so*"))]
    return found[0] if found else None


@cache
def find(version: str = "") -> ctypes.CDLL | None:
    """Load the compiler of ``.venv``, or that of CUDA ``version`` from the cache; ``None`` where there is none."""
    if version:
        path = library_in(cache_folder() / requirements()[version].split("==")[1])
    else:
        spec = importlib.util.find_spec("nvidia")
        path = library_in(*map(Path, spec.submodule_search_locations or [])) if spec else None
    if path is None:
        return None
    for builtins in path.parent.glob("libnvrtc-builtins.so*"):
        ctypes.CDLL(str(builtins))  # which the compiler looks for by name, and not everywhere beside itself
    return ctypes.CDLL(str(path))


needs_nvrtc = pytest.mark.skipif(find() is None, reason="needs the wheel nvidia-cuda-nvrtc")


class NVRTCError(RuntimeError):
    """What cupy raises."""


class Nvrtc:
    """Offer the functions that are used of ``cupy.cuda.nvrtc``, and count the programs that were compiled."""

    NVRTCError = NVRTCError

    def __init__(self, version: str = "") -> None:
        library = find(version)
        assert library is not None
        self._library = library
        self.compiled: list[tuple[str, ...]] = []

    def getVersion(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        return major.value, minor.value

    def getSupportedArchs(self) -> tuple[int, ...]:
        """Return the compute capabilities that it compiles for, as whole numbers: 80, 90, ..."""
        count = ctypes.c_int()
        self._check(self._library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        found = (ctypes.c_int * count.value)()
        self._check(self._library.nvrtcGetSupportedArchs(found))
        return tuple(found)

    def createProgram(self, source: str, name: str, headers: Any, includes: Any) -> ctypes.c_void_p:
        program = ctypes.c_void_p()
        assert not headers
        assert not includes
        self._check(
            self._library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
        )
        return program

    def addNameExpression(self, program: ctypes.c_void_p, name: str) -> None:
        self._check(self._library.nvrtcAddNameExpression(program, name.encode()))

    def compileProgram(self, program: ctypes.c_void_p, options: Sequence[str]) -> None:
        self.compiled.append(tuple(options))
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        self._check(self._library.nvrtcCompileProgram(program, len(options), given))

    def getLoweredName(self, program: ctypes.c_void_p, name: str) -> str:
        lowered = ctypes.c_char_p()
        self._check(self._library.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(lowered)))
        assert lowered.value is not None
        return lowered.value.decode()

    def getCUBIN(self, program: ctypes.c_void_p) -> bytes:
        """Return the machine code without its last byte, as cupy 13 and 14 do."""
        return self._text("CUBIN", program)[:-1]

    def getPTX(self, program: ctypes.c_void_p) -> bytes:
        return self._text("PTX", program)[:-1]

    def getProgramLog(self, program: ctypes.c_void_p) -> str:
        return self._text("ProgramLog", program).decode().rstrip("\0")

    def destroyProgram(self, program: ctypes.c_void_p) -> None:
        self._check(self._library.nvrtcDestroyProgram(ctypes.byref(program)))

    def _text(self, what: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, buffer))
        return buffer.raw

    def _check(self, status: int) -> None:
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        if status:
            raise NVRTCError(self._library.nvrtcGetErrorString(status).decode())


def missing() -> Iterator[tuple[str, Path]]:
    """Yield what pip must be asked for, and the folder it goes to."""
    for requirement in requirements().values():
        folder = cache_folder() / requirement.split("==")[1]
        if not library_in(folder):
            yield requirement, folder


def main() -> None:
    """Fetch the compilers that are not in the cache; one process at a time."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with open(cache_folder() / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for requirement, folder in missing():
            print(f"Fetching {requirement} into {folder}.", flush=True)
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
            subprocess.run([*pip, "--no-deps", "--upgrade", "--target", str(folder), requirement], check=True)


if __name__ == "__main__":
    main()
