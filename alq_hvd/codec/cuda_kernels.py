"""Compile the CUDA kernels of ``cuda/codec.cu`` at first use, for the present GPU, and keep them on disk.

NVIDIA's run-time compiler is called through cupy, but not by ``cupy.RawModule(code=...)``: that adds ``-ftz=true``,
which would round subnormal numbers to zero and change bytes, and it would go on using what it compiled of an older
version, because it does not look into included files.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from alq_hvd import backends
from alq_hvd.errors import BackendUnavailable

FOLDER = Path(__file__).parent
SOURCE = '#include "codec.cu"\n'
ARITHMETIC = ("-std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true")
"""With other arithmetic (products and sums in one, say) the bytes would differ from every other codec's."""
DIALECT = ("--device-as-default-execution-space",)
"""Compilers before CUDA 13.2 take a generic lambda in a kernel for a function of the host, and refuse it."""
OPTIONS = (*ARITHMETIC, *DIALECT, f"-I{FOLDER / 'csrc'}", f"-I{FOLDER / 'cuda'}")
OLDEST = 80
"""Compute capability, without its point, that the kernels need: sums over a warp in one instruction."""
THREADS = 256
WARPS = THREADS // 32
VARIABLE = "ALQ_HVD_KERNELS"
"""Names the folder of compiled kernels, in place of the user's cache: ``alq-hvd kernels --output`` fills one."""
_logger = logging.getLogger(__name__)


@cache
def kernel(name: str, device: int) -> Any:
    """Return the compiled kernel ``name``, such as ``alq::encode<float, 3>``, as ``cupy.cuda.function.Function``.

    It may be launched with as much dynamic shared memory as the device has: cupy shares one function between all who
    ask for it, so a limit that one launch sets would hold for the next one too.

    Args:
        name: a kernel of ``cuda/codec.cu`` with its template arguments.
        device: number of the CUDA device, which must be current: a function belongs to one device.

    Raises:
        BackendUnavailable: the compiler does not know this GPU, or the GPU is too old.
    """
    cupy = backends.cupy()
    gpu = cupy.cuda.Device(device)
    file = compiled(name, gpu.compute_capability, cache_folder())
    found = cupy.RawModule(path=str(file)).get_function(symbol_of(file))
    most = int(gpu.attributes["MaxSharedMemoryPerBlockOptin"])
    found.max_dynamic_shared_size_bytes = most - int(found.shared_size_bytes)
    return found.kernel


def compiled(name: str, capability: str, folder: Path) -> Path:
    """Return the file of the machine code of the kernel ``name``, compiled unless ``folder`` has it.

    The file's name holds a digest of everything that its content depends on, and the symbol to look up in it. One
    process at a time compiles a kernel: the ranks of a node wait for the first of them, and find what it made.

    Args:
        name: a kernel of ``cuda/codec.cu`` with its template arguments.
        capability: of the GPU, without its point, such as ``90``.
        folder: to keep it in; where that cannot be written, a folder of this process serves.

    Raises:
        BackendUnavailable: the compiler does not know this GPU, or the GPU is too old.
    """
    require_capability(int(capability), f"sm_{capability}")
    nvrtc = backends.cupy().cuda.nvrtc
    described = (name, capability, *ARITHMETIC, nvrtc.getVersion(), _sources())
    key = hashlib.sha256(repr(described).encode()).hexdigest()[:24]
    found = _kept(folder, key)
    if found:
        return found
    try:
        with _only_compiler(folder, key):
            return _kept(folder, key) or _write(folder, key, *_compile(nvrtc, name, capability))
    except OSError as problem:
        _logger.warning("%s: kernels are compiled again by every process (%s)", folder, problem)
        return _write(Path(tempfile.mkdtemp(prefix="alq_hvd_")), key, *_compile(nvrtc, name, capability))


def require_capability(capability: int, what: str) -> None:
    """Raise ``BackendUnavailable`` unless GPUs of ``capability``, such as 90, can run the kernels."""
    if capability < OLDEST:
        raise BackendUnavailable(
            f"expected a GPU of compute capability {OLDEST / 10} or newer, got {capability / 10} on {what}: take "
            "codec='native'"
        )


def symbol_of(file: Path) -> str:
    """Return the mangled name of the kernel in a file of ``compiled``."""
    return file.name.split(".")[1]


def cache_folder() -> Path:
    """Return where compiled kernels are kept: what ``VARIABLE`` names, or ``alq-hvd/kernels`` in the user's cache."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alq-hvd" / "kernels"


def _make(folder: Path) -> None:
    """Make a folder in which only this user may put code for the GPU, whatever the umask."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)


def _kept(folder: Path, key: str) -> Path | None:
    return next(iter(sorted(folder.glob(f"{key}.*.cubin"))), None)


@contextmanager
def _only_compiler(folder: Path, key: str) -> Iterator[None]:
    """Wait until no other process compiles this kernel; where the file system has no locks, compile beside it.

    Each kernel has a byte of one file as its lock, which need not be there to be locked. Locks of open files, not of
    processes, also keep threads apart.
    """
    _make(folder)
    byte = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, int(key[:15], 16), 1, 0)
    with open(folder / "lock", "a") as lock:
        with suppress(OSError):
            fcntl.fcntl(lock, fcntl.F_OFD_SETLKW, byte)
        yield


def _compile(nvrtc: Any, name: str, capability: str) -> tuple[str, bytes]:
    program = nvrtc.createProgram(SOURCE, "alq.cu", (), ())
    try:
        nvrtc.addNameExpression(program, name)
        nvrtc.compileProgram(program, (*OPTIONS, f"--gpu-architecture=sm_{capability}"))
        return nvrtc.getLoweredName(program, name), whole(nvrtc.getCUBIN(program))
    except nvrtc.NVRTCError as error:
        version = ".".join(str(part) for part in nvrtc.getVersion())
        raise BackendUnavailable(
            f"expected CUDA's run-time compiler {version} to compile {name} for sm_{capability}, got {error}: "
            f"{nvrtc.getProgramLog(program)}. Install the cupy of a CUDA that knows this GPU, or use codec='native'"
        ) from error
    finally:
        nvrtc.destroyProgram(program)


def whole(code: bytes) -> bytes:
    """Return machine code with the byte that ``cupy.cuda.nvrtc.getCUBIN`` takes for the end of a text and cuts off.

    It is zero: an ELF file ends with a table of 64-bit numbers, of which the last is small. Where the tables lie, its
    header says: 64-bit offsets at 32 and 40, sizes and counts of entries as 16-bit numbers from 54 on.
    """
    segments, sections = struct.unpack_from("<QQ", code, 32)
    segment_bytes, segment_count, section_bytes, section_count = struct.unpack_from("<4H", code, 54)
    end = max(segments + segment_bytes * segment_count, sections + section_bytes * section_count)
    return code.ljust(end, b"\0") if end - len(code) == 1 else code


def _write(folder: Path, key: str, symbol: str, code: bytes) -> Path:
    """Write a file that is whole as soon as it is there: other ranks look for it too."""
    _make(folder)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(code)
    os.chmod(file.name, 0o644)  # a folder made ahead of time serves other users
    os.replace(file.name, folder / f"{key}.{symbol}.cubin")
    return folder / f"{key}.{symbol}.cubin"


@cache
def _sources() -> str:
    """Return a digest of all files that kernels are made of."""
    files = sorted(path for part in ("csrc", "cuda") for path in (FOLDER / part).iterdir() if path.suffix in _SUFFIXES)
    return hashlib.sha256(b"\0".join(path.name.encode() + b"\0" + path.read_bytes() for path in files)).hexdigest()


_SUFFIXES = (".h", ".cuh", ".cu")
