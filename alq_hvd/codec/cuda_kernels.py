"""Compile the CUDA kernels of ``cuda/codec.cu`` at their first use, for the GPU at hand, and keep them on disk.

NVIDIA's run-time compiler is called through cupy, but not by ``cupy.RawModule(code=...)``: that adds ``-ftz=true``,
which would round subnormal numbers to zero and change bytes, and it would go on using what it compiled of an older
version, because it does not look into included files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from alq_hvd import backends
from alq_hvd.errors import BackendUnavailable

FOLDER = Path(__file__).parent
SOURCE = '#include "codec.cu"\n'
ARITHMETIC = ("-std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true")
"""With other arithmetic (products and sums in one, say) the bytes would differ from every other codec's."""
OPTIONS = (*ARITHMETIC, f"-I{FOLDER / 'csrc'}", f"-I{FOLDER / 'cuda'}")
THREADS = 256
WARPS = THREADS // 32
_logger = logging.getLogger(__name__)


@cache
def kernel(name: str, device: int, dynamic_shared_bytes: int = 0) -> Any:
    """Return the compiled kernel ``name``, such as ``alq::encode<float, 3>``, as cupy calls kernels.

    Args:
        name: a kernel of ``cuda/codec.cu`` with its template arguments.
        device: number of the CUDA device, which must be current: a function belongs to one device.
        dynamic_shared_bytes: the most that one launch will ask for; above 48 KiB it must be announced.

    Raises:
        BackendUnavailable: the compiler does not know this GPU.
    """
    cupy = backends.cupy()
    file = compiled(name, cupy.cuda.Device(device).compute_capability, cache_folder())
    function = cupy.RawModule(path=str(file)).get_function(symbol_of(file))
    if dynamic_shared_bytes:
        function.max_dynamic_shared_size_bytes = dynamic_shared_bytes
    return function


def compiled(name: str, capability: str, folder: Path) -> Path:
    """Return the file of the machine code of the kernel ``name``, compiled unless ``folder`` has it.

    The file's name holds a digest of everything that its content depends on, and the symbol to look up in it.

    Args:
        name: a kernel of ``cuda/codec.cu`` with its template arguments.
        capability: of the GPU, without its point, such as ``90``.
        folder: to keep it in; where that can not be written, a folder of this process serves.
    """
    nvrtc = backends.cupy().cuda.nvrtc
    described = (name, capability, *ARITHMETIC, nvrtc.getVersion(), _sources())
    key = hashlib.sha256(repr(described).encode()).hexdigest()[:24]
    found = sorted(folder.glob(f"{key}.*.cubin"))
    if found:
        return found[0]
    symbol, code = _compile(nvrtc, name, capability)
    try:
        return _write(folder, f"{key}.{symbol}.cubin", code)
    except OSError as problem:
        _logger.warning("%s: kernels are compiled again by every process (%s)", folder, problem)
        return _write(Path(tempfile.mkdtemp(prefix="alq_hvd_")), f"{key}.{symbol}.cubin", code)


def symbol_of(file: Path) -> str:
    """Return the mangled name of the kernel in a file of ``compiled``."""
    return file.name.split(".")[1]


def cache_folder() -> Path:
    """Return where compiled kernels are kept: ``alq-hvd/kernels`` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alq-hvd" / "kernels"


def _compile(nvrtc: Any, name: str, capability: str) -> tuple[str, bytes]:
    program = nvrtc.createProgram(SOURCE, "alq.cu", (), ())
    try:
        nvrtc.addNameExpression(program, name)
        nvrtc.compileProgram(program, (*OPTIONS, f"--gpu-architecture=sm_{capability}"))
        return nvrtc.getLoweredName(program, name), nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError as error:
        version = ".".join(str(part) for part in nvrtc.getVersion())
        raise BackendUnavailable(
            f"expected CUDA's run-time compiler {version} to compile {name} for sm_{capability}, got {error}: "
            f"{nvrtc.getProgramLog(program)}. Install the cupy of a CUDA that knows this GPU, or take codec='native'"
        ) from error
    finally:
        nvrtc.destroyProgram(program)


def _write(folder: Path, name: str, code: bytes) -> Path:
    """Write a file that is whole as soon as it is there: other ranks look for it too."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(code)
    os.replace(file.name, folder / name)
    return folder / name


@cache
def _sources() -> str:
    """Return a digest of all files that kernels are made of."""
    files = sorted(path for part in ("csrc", "cuda") for path in (FOLDER / part).iterdir() if path.suffix in _SUFFIXES)
    return hashlib.sha256(b"\0".join(path.name.encode() + b"\0" + path.read_bytes() for path in files)).hexdigest()


_SUFFIXES = (".h", ".cuh", ".cu")
