"""What ``alq-hvd doctor`` tries, one trial a process: a broken library may crash or hang, and only the trial falls.

``python -m alq_hvd.cli.trials NAME`` prints one line of JSON last: ``{"detail": "..."}`` or ``{"error": "..."}``. The
trials of transports are what each rank runs under its launcher; rank 0 prints.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from alq_hvd import backends
from alq_hvd.errors import AlqError

if TYPE_CHECKING:  # these need numpy, whose absence the doctor must be able to say
    from alq_hvd.codec.base import Codec
    from alq_hvd.communicator.base import Communicator

CODECS = {"reference": "ReferenceCodec", "native": "NativeCodec"}
"""The codecs that take NumPy arrays: module in ``alq_hvd.codec`` -> class."""


def package(name: str) -> str:
    """Import a Python package and return its version."""
    importlib.import_module(name)
    return importlib.metadata.version(name)


def torch() -> str:
    """Multiply two matrices, which a broken build of torch does not survive, and return its version."""
    module = backends.torch()
    ones = module.ones(8, 8)
    if float((ones @ ones).sum()) != 512.0:
        raise AlqError("torch multiplies matrices wrongly")
    return str(module.__version__)


def horovod() -> str:
    """Return Horovod's version and what it was built with."""
    hvd = backends.horovod()
    built = {"MPI": hvd.mpi_built(), "Gloo": hvd.gloo_built(), "NCCL": bool(hvd.nccl_built())}
    parts = [f"with {name}" if there else f"without {name}" for name, there in built.items()]
    return ", ".join([importlib.metadata.version("horovod"), *parts, *(_gpu_collectives() if built["NCCL"] else [])])


def _gpu_collectives() -> list[str]:
    """Return what the environment says of the two collectives of ``device_records``: Horovod itself does not tell.

    They are built for NCCL one by one; where they are not, Horovod carries tensors of a GPU by way of the host.
    """
    asked = {name: os.environ.get(name) or os.environ.get("HOROVOD_GPU_OPERATIONS") for name in _GPU_COLLECTIVES}
    if set(asked.values()) == {"NCCL"}:
        return ["all-gather and all-to-all of GPU tensors over NCCL, if it was built as this environment says"]
    said = ", ".join(f"{name}={value or '(not set)'}" for name, value in asked.items())
    return [f"not known to carry GPU tensors over NCCL ({said}): device_records needs both built with NCCL"]


_GPU_COLLECTIVES = ("HOROVOD_GPU_ALLGATHER", "HOROVOD_GPU_ALLTOALL")


def mpi4py() -> str:
    """Initialise MPI alone in this process and return the versions of mpi4py and of the library."""
    mpi = backends.mpi()
    if not mpi.Is_initialized():
        mpi.Init()
    library = mpi.Get_library_version().split(",")[0].strip()
    mpi.Finalize()
    return f"{importlib.metadata.version('mpi4py')} with {library}"


def cupy() -> str:
    """Return cupy's version and the name of the first GPU."""
    module = backends.cupy()
    device = module.cuda.runtime.getDeviceProperties(0)
    return f"{module.__version__}, {module.cuda.runtime.getDeviceCount()} GPU(s): {device['name'].decode()}"


def codec(name: str) -> str:
    """Encode a small gradient, decode it, and compare the bytes with the reference's."""
    import numpy as np

    from alq_hvd.codec.keys import stream_key
    from alq_hvd.quantiser.config import QuantiserConfig
    from alq_hvd.quantiser.levels import Levels
    from alq_hvd.quantiser.record import RecordLayout, Stamp

    def make(which: str) -> Codec:
        made: Codec = getattr(importlib.import_module(f"alq_hvd.codec.{which}"), CODECS[which])()
        return made

    values = np.sin(np.arange(5000, dtype=np.float32))
    layout = RecordLayout(len(values), QuantiserConfig(bits=3, bucket_size=512, norm="linf"))
    levels = Levels(np.linspace(-1, 1, 8, dtype=np.float32))
    key, stamp = stream_key(seed=1, step=2, rank=3, group=4, shot=0), Stamp(levels.digest, step=2, sender=3)
    tried, reference = make(name), make("reference")
    record = tried.encode(values, layout, levels, key, stamp)
    if not np.array_equal(record, reference.encode(values, layout, levels, key, stamp)):
        raise AlqError(f"the codec {name} gives other bytes than the reference: do not train with it, report it")
    error = np.abs(tried.decode_sum([record], layout, levels, [stamp], 1.0) - values).max()
    if not error <= 2 / 7 + 1e-6:
        raise AlqError(f"the codec {name} decodes to values {error:.3g} away, more than one gap of the levels")
    extra = f" ({tried.instruction_set})" if hasattr(tried, "instruction_set") else ""
    return f"5000 values to {len(record)} bytes and back{extra}"


def cuda_codec() -> str:
    """Make the GPU codec and say which GPU it would run on."""
    importlib.import_module("alq_hvd.codec.cuda_codec").CudaCodec()
    return cupy()


def loopback() -> str:
    """Gather bytes over two threads."""
    from alq_hvd.communicator.loopback import LoopbackWorld

    LoopbackWorld(2, timeout=10).run(_gather)
    return "2 threads gathered bytes"


def horovod_ranks() -> str:
    """Gather bytes over the ranks that horovodrun started."""
    from alq_hvd.communicator.horovod import HorovodCommunicator

    hvd = backends.horovod()
    hvd.init()
    _gather(HorovodCommunicator(timeout=30))
    return f"{hvd.size()} ranks gathered bytes" if hvd.rank() == 0 else ""


def mpi_ranks() -> str:
    """Gather bytes through mpi4py beside Horovod, as statistics travel to the leader and levels back."""
    from alq_hvd.communicator.mpi import MpiCommunicator

    hvd = backends.horovod()
    hvd.init()
    _gather(MpiCommunicator.for_ranks(range(hvd.size()), timeout=30))
    return f"{hvd.size()} ranks gathered bytes beside Horovod" if hvd.rank() == 0 else ""


def torch_ranks() -> str:
    """Gather bytes over the ranks of torch.distributed that torchrun started."""
    from alq_hvd.communicator.torch_distributed import TorchCommunicator

    dist = backends.torch_distributed()
    dist.init_process_group("gloo")
    ranks = TorchCommunicator(timeout=30)
    _gather(ranks)
    dist.barrier()
    return f"{ranks.size} ranks gathered bytes" if ranks.rank == 0 else ""


def _gather(communicator: Communicator) -> None:
    import numpy as np

    rank, size = communicator.rank, communicator.size
    payload = np.full(512, rank, dtype=np.uint8)
    got = [sorted({*map(int, each)}) for each in communicator.allgather(payload, "alq_hvd.doctor").wait()]
    if size < 2 or got != [[sender] for sender in range(size)]:
        raise AlqError(f"expected every rank's number from 2 ranks or more, got {got} on rank {rank} of {size}")


TRIALS: dict[str, Callable[[], str]] = {
    "numpy": lambda: package("numpy"),
    "scipy": lambda: package("scipy"),
    "torch": torch,
    "horovod": horovod,
    "mpi4py": mpi4py,
    "cupy": cupy,
    "codec-reference": lambda: codec("reference"),
    "codec-native": lambda: codec("native"),
    "codec-cuda": cuda_codec,
    "loopback": loopback,
    "horovod-ranks": horovod_ranks,
    "mpi-ranks": mpi_ranks,
    "torch-ranks": torch_ranks,
}


def main() -> int:
    """Run the trial named on the command line, print its outcome, and return the exit status."""
    try:
        detail = TRIALS[sys.argv[1]]()
    except Exception as error:  # whatever it is, the doctor must hear of it
        cause = error.__cause__ or error
        text = str(cause) if isinstance(cause, AlqError) else f"{type(cause).__name__}: {cause}"
        print(json.dumps({"error": text}), flush=True)
        return 1
    if detail:
        print(json.dumps({"detail": detail}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
