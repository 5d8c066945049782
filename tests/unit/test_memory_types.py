"""Values and records of the host and of a device are types of their own: mypy refuses to mix them up."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GIVEN = """
from alq_hvd.codec.arrays import HostArrays
from alq_hvd.codec.base import Arrays, Codec, FloatArray, Record
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.codec.cuda_device import Tensor
from alq_hvd.codec.device_arrays import DeviceArrays, DeviceValues, Parts
from alq_hvd.codec.native import NativeCodec
from alq_hvd.codec.reference import ReferenceCodec
from alq_hvd.exchange.allgather import allgather
from alq_hvd.exchange.base import Task
from alq_hvd.exchange.staged import StagedCarrier

def given(values: FloatArray, record: Record, parts: Parts, tensor: Tensor,
          host: Task[FloatArray, Record], device: Task[DeviceValues, Tensor], carrier: StagedCarrier[Tensor],
          native: NativeCodec, reference: ReferenceCodec, cuda: CudaCodec, arrays: DeviceArrays) -> None:
"""
RIGHT = (
    "of_host: Codec[FloatArray, Record] = native",
    "also: Codec[FloatArray, Record] = reference",
    "of_device: Codec[DeviceValues, Tensor] = cuda",
    "host_arrays: Arrays[FloatArray, Record] = HostArrays()",
    "device_arrays: Arrays[DeviceValues, Tensor] = arrays",
    "allgather(values, host)",
    "allgather(parts, device)",
    'carrier.allgather(tensor, "name")',
    "host.carrier.allgather(record, 'name')",
    "open_to_both: list[Codec] = [native, cuda]",
)
WRONG = (
    "wrong1: Codec[FloatArray, Record] = cuda",
    "wrong2: Codec[DeviceValues, Tensor] = native",
    "wrong3: Arrays[FloatArray, Record] = arrays",
    "wrong4: Arrays[DeviceValues, Tensor] = HostArrays()",
    "allgather(parts, host)",
    "allgather(values, device)",
    'carrier.allgather(record, "name")',
    "host.carrier.allgather(tensor, 'name')",
    "native.encode(parts, host.layout(0, 1), host.shots[0].levels, host.key(0), host.stamp(0, 0))",
    "wrong5: Record = arrays.as_bytes(parts)",
    "wrong6: FloatArray = arrays.plus(parts, tensor)",
)


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="needs mypy: pip install -e '.[lint]'")
def test_mypy_tells_values_and_records_of_host_and_device_apart(tmp_path: Path) -> None:
    program = tmp_path / "mixed_up.py"
    program.write_text(GIVEN + "".join(f"    {line}\n" for line in (*RIGHT, *WRONG)))
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "setup.cfg"), str(program)]
    cache = {"MYPY_CACHE_DIR": str(tmp_path / "cache"), "MYPYPATH": str(ROOT)}
    said = subprocess.run(
        command, capture_output=True, text=True, timeout=110, cwd=tmp_path, env={**os.environ, **cache}, check=False
    ).stdout
    first = GIVEN.count("\n") + 1
    lines = dict(enumerate((*RIGHT, *WRONG), start=first))
    refused = {
        int(part.split(":")[1]) for part in said.splitlines() if part.startswith(program.name) and "error" in part
    }
    assert refused, said
    for number, line in lines.items():
        assert (number in refused) == (line in WRONG), f"{line}\n{said}"
