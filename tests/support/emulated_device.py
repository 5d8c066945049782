"""A device for the CUDA codec on machines without a GPU: its kernels run on the CPU, its tensors are the CPU's.

It enters where cupy would: a kernel's name, a number of blocks, and the bytes of the arguments. So all the Python of
``CudaCodec`` runs as it does on a GPU. ``tests/native/emulate_cuda.h`` runs the threads of a block one after another:
arithmetic, indices and the order of sums are checked; races and speed need a GPU (``tests/gpu``).
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alq_hvd.codec import cuda_names, native

SOURCES = Path(native.__file__).parent
PROGRAMS = Path(__file__).parents[1] / "native"
COMPILER = shutil.which("g++") or shutil.which("c++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler, as building alq_hvd does")
BUILT = Path(__file__).parents[2] / ".cache" / "emulated"
"""Libraries, by the digest of all that they are made of."""
KERNELS = frozenset(cuda_names.every(range(1, 9), cuda_names.TYPES.values()))
_one_launch = threading.Lock()
"""The emulated threads are global variables: ranks that are threads of one process take turns."""


def build() -> Path:
    """Compile the kernels for the CPU, unless they have been before, by whichever process; return the library."""
    includes = [f"-I{SOURCES / 'csrc'}", f"-I{SOURCES / 'cuda'}", f"-I{PROGRAMS}"]
    options = ["-O1", "-std=c++17", "-fPIC", "-shared", "-ffp-contract=off", "-DALQ_EMULATED"]
    quiet = ["-Wall", "-Wno-unknown-pragmas", "-Wno-psabi"]
    command = [str(COMPILER), *options, *quiet, *includes, str(PROGRAMS / "emulated_launch.cpp")]
    built = BUILT / f"{digest_of(command)}.so"
    BUILT.mkdir(parents=True, exist_ok=True)
    with open(BUILT / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            draft = built.with_suffix(".part")
            done = subprocess.run([*command, "-o", str(draft)], capture_output=True, text=True, timeout=280)
            assert done.returncode == 0, done.stderr
            draft.replace(built)
    return built


def digest_of(command: Sequence[str]) -> str:
    """Return a number of all that the library is made of."""
    version = subprocess.run([str(COMPILER), "--version"], capture_output=True, timeout=60, check=True).stdout
    digest = hashlib.sha256(version + "\n".join(command).encode())
    for folder in (SOURCES / "csrc", SOURCES / "cuda", PROGRAMS):
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:20]


@cache
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(build()))
    loaded.emulated_launch.restype = ctypes.c_char_p
    return loaded


def run_kernel(name: str, blocks: int, arguments: Sequence[Any], shared_bytes: int) -> None:
    """Run a kernel to its end; it must be one of those that ``alq-hvd kernels`` compiles."""
    if not blocks:
        return
    passed = [as_passed(argument) for argument in arguments]
    addresses = (ctypes.c_void_p * len(passed))(*(ctypes.addressof(each) for each in passed))
    sizes = (ctypes.c_size_t * len(passed))(*(len(each) for each in passed))
    with _one_launch:
        problem = library().emulated_launch(
            name.encode(), blocks, len(passed), addresses, sizes, ctypes.c_size_t(shared_bytes)
        )
    assert problem is None, problem.decode()
    assert name in KERNELS, name


@dataclass(frozen=True, eq=False)
class EmulatedDevice:
    """A device whose memory is the CPU's; see ``alq_hvd.codec.cuda_device.Device``.

    Attributes:
        launched: names of the kernels that were started, in order.
        shared_bytes: as an H200 has them.
        polls: how many times a copy to the host is asked for before it is done.
    """

    launched: list[str] = field(default_factory=list)
    name: str = "cpu"
    shared_bytes: int = 211 * 1024
    polls: int = 0

    def holds(self, tensors: Sequence[Any]) -> bool:
        return all(str(tensor.device) == self.name for tensor in tensors)

    def launch(self, name: str, blocks: int, arguments: Sequence[Any], shared_bytes: int = 0) -> None:
        self.launched.append(name)
        run_kernel(name, blocks, arguments, shared_bytes)

    @property
    def stream(self) -> str:
        return "the only stream"

    def follow(self, stream: Any) -> None:
        raise AssertionError("there is one stream only")

    def upload(self, *arrays: np.ndarray) -> torch.Tensor:
        joined = b"".join(array.tobytes() for array in arrays)
        return torch.from_numpy(np.frombuffer(joined, dtype=np.uint8).copy())

    def download(self, tensors: Sequence[torch.Tensor]) -> EmulatedDownload:
        return EmulatedDownload(torch.cat(list(tensors)).numpy(), self.polls)

    def keep(self, tensor: torch.Tensor) -> None:
        """Do nothing: there is one stream only."""

    def synchronize(self) -> None:
        """Do nothing: launches have ended when they return."""


@dataclass(frozen=True)
class EmulatedDevices:
    """Say that tensors live on an emulated device; see ``alq_hvd.codec.choice.Devices``.

    Attributes:
        device: the one there is.
        holds: tells the tensors that live there; all, unless a test mixes devices.
    """

    device: EmulatedDevice = field(default_factory=EmulatedDevice)
    holds: Callable[[torch.Tensor], bool] = lambda tensor: True

    def require(self) -> None:
        """Accept: nothing needs to be installed."""

    def of(self, tensor: torch.Tensor) -> EmulatedDevice | None:
        return self.device if self.holds(tensor) else None


@dataclass
class EmulatedDownload:
    """Deliver bytes that were copied long ago, but say so only when asked often enough, or waited for."""

    host: np.ndarray
    polls: int

    def done(self) -> bool:
        self.polls -= 1
        return self.polls < 0

    def wait(self) -> np.ndarray:
        self.polls = 0
        return self.host


def as_passed(argument: Any) -> ctypes.Array[ctypes.c_char]:
    """Return the bytes that cupy hands to the driver: an int in 64 bits, everything else as it is."""
    wide = np.int64(argument) if isinstance(argument, int) else argument
    data = wide.tobytes()
    return ctypes.create_string_buffer(data, len(data))
