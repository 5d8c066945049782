"""``cupy.cuda.nvrtc`` without cupy: NVIDIA's run-time compiler, of the wheel nvidia-cuda-nvrtc, which needs no GPU."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest


def find() -> ctypes.CDLL | None:
    found = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in found.submodule_search_locations or []] if found else []
    libraries = [path for folder in folders for path in sorted(folder.rglob("libnvrtc.so*"))]
    return ctypes.CDLL(str(libraries[0])) if libraries else None


needs_nvrtc = pytest.mark.skipif(find() is None, reason="needs the wheel nvidia-cuda-nvrtc")


class NVRTCError(RuntimeError):
    """Be what cupy raises."""


class Nvrtc:
    """Offer the functions that are used of ``cupy.cuda.nvrtc``, and count the programs that were compiled."""

    NVRTCError = NVRTCError

    def __init__(self) -> None:
        library = find()
        assert library is not None
        self._library = library
        self.compiled: list[tuple[str, ...]] = []

    def getVersion(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        return major.value, minor.value

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
        return self._text("CUBIN", program)

    def getPTX(self, program: ctypes.c_void_p) -> bytes:
        return self._text("PTX", program)

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
