"""What one call of the GPU codec costs on the host: its Python, measured with a device that starts nothing.

python benchmarks/host_time.py [--output benchmarks/results/host-time.json]

Tensors lie on the CPU, and a launch returns at once: what cupy and CUDA take for a launch, and what PyTorch's allocator
of GPU memory takes instead of the host's, is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from operator import methodcaller
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from alq_hvd import backends  # noqa: E402
from alq_hvd.cli.codec_rates import KEY, TOGETHER, levels_of  # noqa: E402
from alq_hvd.cli.resnet50 import resnet50_shapes  # noqa: E402
from alq_hvd.codec.cuda_codec import CudaCodec  # noqa: E402
from alq_hvd.codec.device_arrays import Parts  # noqa: E402
from alq_hvd.machine import processor  # noqa: E402
from alq_hvd.quantiser.config import QuantiserConfig  # noqa: E402
from alq_hvd.quantiser.record import RecordLayout, Stamp  # noqa: E402

GOALS = {161: 60.0, 1: 15.0}
"""Microseconds of one encode, by its tensors."""
_get_device = methodcaller("get_device")
CALLS, REPEATS = 200, 15


@dataclass(frozen=True)
class EmptyDevice:
    """A device on which nothing happens; its memory is the host's."""

    name: str = "cpu"
    shared_bytes: int = 211 * 1024
    stream: str = "the only one"

    def holds(self, tensors: Sequence[Any]) -> bool:
        """Compare numbers, as CudaDevice does; -1 is the CPU."""
        return set(map(_get_device, tensors)) <= {-1} and not any(tensor.is_cuda for tensor in tensors[:1])

    def launch(self, name: str, blocks: int, arguments: Sequence[Any], shared_bytes: int = 0) -> None:
        """Do nothing."""

    def keep(self, tensor: Any) -> None:
        """Do nothing."""

    def synchronize(self) -> None:
        """Do nothing."""

    def upload(self, *arrays: Any) -> Any:
        torch = backends.torch()
        return torch.cat([torch.from_numpy(array.copy()).view(torch.uint8).reshape(-1) for array in arrays])


def microseconds(work: Callable[[int], object]) -> float:
    """Return the median, over ``REPEATS``, of the mean time of ``CALLS`` calls, each given its number.

    Of the processor's time, not of a clock's: other work on the machine does not count.
    """
    taken = []
    for repeat in range(REPEATS):
        start = time.thread_time()
        for call in range(CALLS):
            work(repeat * CALLS + call)
        taken.append((time.thread_time() - start) / CALLS)
    return 1e6 * statistics.median(taken)


def rows() -> list[dict[str, Any]]:
    """Measure encode and decode_sum of a ResNet-50's tensors, and of one."""
    torch = backends.torch()
    codec, levels = CudaCodec(EmptyDevice()), levels_of(3)  # type: ignore[arg-type]
    measured: list[dict[str, Any]] = []
    for shapes in (resnet50_shapes(), [(1 << 16,)]):
        parts = Parts(tuple(torch.zeros(shape).view(-1) for shape in shapes))
        layout = RecordLayout(len(parts), QuantiserConfig(3, 8192))
        records = [torch.zeros(layout.record_bytes, dtype=torch.uint8) for _ in range(8)]

        def encode(step: int, parts: Parts = parts, layout: RecordLayout = layout) -> object:
            return codec.encode(parts, layout, levels, KEY, Stamp(levels.digest, step, 0))

        def encode_together(step: int, parts: Parts = parts, layout: RecordLayout = layout) -> object:
            return codec.encode(parts, layout, levels, TOGETHER["encode/32"], Stamp(levels.digest, step, 0))

        def decode(step: int, parts: Parts = parts, layout: RecordLayout = layout, records: Any = records) -> object:
            stamps = [Stamp(levels.digest, step, sender) for sender in range(len(records))]
            return codec.decode_sum(records, layout, levels, stamps, 0.125, parts)

        for name, work in (("encode", encode), ("encode together", encode_together), ("decode_sum of 8", decode)):
            row = {"operation": name, "tensors": len(shapes), "microseconds": round(microseconds(work), 1)}
            measured.append({**row, "goal": GOALS[len(shapes)] if name.startswith("encode") else None})
    return measured


def main() -> None:
    """Measure, print a table and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "host-time.json")
    output = parser.parse_args().output
    machine = {"processor": processor(), "load_average": os.getloadavg(), "python": platform.python_version(),
               "torch": metadata.version("torch")}  # fmt: skip
    measured = rows()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"machine": machine, "rows": measured}, indent=1) + "\n")
    for row in measured:
        goal = f", goal {row['goal']:.0f}" if row["goal"] else ""
        print(f"{row['operation']:<16} of {row['tensors']:>3} tensors: {row['microseconds']:>6.1f} us of Python{goal}")
    print(f"\nkept in {output}")


if __name__ == "__main__":
    main()
