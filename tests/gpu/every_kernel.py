"""Run each kernel on small gradients, for compute-sanitizer to look at: ``bash tests/gpu/run.sh sanitize``.

What comes out is compared with the reference, as in the tests; then follows a line that counts the kernels which ran.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_NO_CUDA_MEMORY_CACHING", "1")  # memory of its own for each tensor: overruns are seen

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # the program's own folder stands there, not the checkout

from alq_hvd.codec import cuda_names
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.codec.cuda_device import CudaDevice
from alq_hvd.quantiser.config import QuantiserConfig
from tests.support import cuda_cases, cuda_drawn_cases, cuda_rotated_cases, cuda_width_cases

ELEMENTS = 20_011
BUCKETS = (512, 1000, 8192)
"""One whose blocks pass through shared memory, one that is read twice, and one that registers hold."""


@dataclass(frozen=True, slots=True)
class NotedDevice(CudaDevice):
    """A CUDA device that notes which kernels were started."""

    started: set[str] = field(default_factory=set)

    def launch(self, name: str, blocks: int, arguments: Sequence[Any], shared_bytes: int = 0) -> None:
        """Start a kernel."""
        if blocks:
            self.started.add(name)
        CudaDevice.launch(self, name, blocks, arguments, shared_bytes)


def families(names: Sequence[str]) -> set[str]:
    """Return the kernels of which these are instances."""
    return {name.removeprefix("alq::").split("<")[0] for name in names}


def main() -> None:
    """Run, compare and count."""
    device = NotedDevice()
    codec = CudaCodec(device)
    for bucket_size in BUCKETS:
        for norm in ("l2", "linf"):
            cuda_cases.check_bytes(codec, 3, norm, bucket_size, ELEMENTS)  # type: ignore[arg-type]
        cuda_cases.check_decode_sum(codec, 4, bucket_size, ELEMENTS)
        cuda_cases.check_recode(codec, (4, 8), bucket_size, ELEMENTS)
        cuda_cases.check_error_feedback(codec, bucket_size, None, ELEMENTS)
        cuda_cases.check_16_bit_tensors(codec, torch.bfloat16, bucket_size, (7001, 1000, 0, 33, 1))
        for kind in ("l2", "nearest"):
            cuda_rotated_cases.check_bytes(codec, kind, 2, bucket_size, ELEMENTS)
            cuda_rotated_cases.check_error_feedback(codec, kind, bucket_size, ELEMENTS)
        cuda_rotated_cases.check_recode(codec, ("l2", "nearest"), (bucket_size, 512), ELEMENTS)
    for bucket_size in (65_536, 70_000):  # rotated in device memory
        cuda_rotated_cases.check_bytes(codec, "nearest", 3, bucket_size, 4 * ELEMENTS)
    cuda_cases.check_statistics(codec, QuantiserConfig(3, 512), ELEMENTS)
    for way in (*cuda_drawn_cases.together(4)[:3], *cuda_drawn_cases.dithered(4)[:3]):
        cuda_drawn_cases.check_way(codec, way)
    for method in ("eden", "optimal", "rotated, dithered"):
        cuda_width_cases.check(codec, method, ELEMENTS, 1.5, 1024)
        cuda_width_cases.check_damage(codec, method)
        cuda_width_cases.check_recode(codec, method)
    torch.cuda.synchronize()
    known = families(cuda_names.every([2, 3, 4, 8], list(cuda_names.TYPES.values())))
    ran = families(sorted(device.started))
    print(f"{len(device.started)} instances of {len(ran)} kernels ran, of {len(known)}", end="")
    print(f"; not: {', '.join(sorted(known - ran))}" if known - ran else "")


if __name__ == "__main__":
    main()
