"""Run on every rank under horovodrun: train with gradients on the host, and on a device that is emulated.

Usage: devices.py RESULTS_DIRECTORY
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))  # the program's own folder stands there, not the checkout

from alq_hvd.communicator.horovod import HorovodCommunicator
from tests.support.device_training import compressor, network, weights
from tests.support.emulated_device import EmulatedDevice, EmulatedDevices


def run(name: str, devices: EmulatedDevices | None, dtype: torch.dtype = torch.float32, **options: Any) -> str:
    """Take four steps with Horovod's own optimizer, and return a digest of the weights."""
    model = network(dtype, "cpu")
    named = list(model.named_parameters())
    compression = compressor(HorovodCommunicator(), model, devices, name=name, schedule=[0, 2], **options)
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.05), named_parameters=named, compression=compression
    )
    data = torch.Generator().manual_seed(hvd.rank())
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(8, 24, generator=data).to(dtype)).square().mean().backward()
        optimizer.step()
    return hashlib.sha256(weights(model)).hexdigest()


def slow() -> EmulatedDevices:
    """Return a device whose records take a while to leave."""
    return EmulatedDevices(EmulatedDevice(polls=3))


def main(results: Path) -> None:
    """Run every case and write this rank's digests.

    The host; the device; a device on rank 1 alone; and the device with records handed to Horovod where they lie.
    """
    hvd.init()
    outcome = {}
    for exchange in ("allgather", "two_shot"):
        for dtype in (torch.float32, torch.bfloat16):
            cases = {"host": None, "device": slow(), "mixed": slow() if hvd.rank() == 1 else None, "direct": slow()}
            for place, devices in cases.items():
                name = f"{exchange}, {str(dtype).removeprefix('torch.')}, {place}"
                outcome[name] = run(name, devices, dtype, exchange=exchange, device_records=place == "direct")
    (results / f"{hvd.rank()}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
