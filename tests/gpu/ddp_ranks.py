"""Train a small network under DDP, each case with the codec of its device and with that of the host.

Usage: ddp_ranks.py RESULTS_DIRECTORY BACKEND DEVICE, started by torchrun: on a GPU (``cuda:0``) that all ranks share,
or on the CPU with ``emulated`` kernels. Neither Horovod nor MPI is needed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[2]))  # the program's own folder stands there, not the checkout

import alq_hvd
from alq_hvd.codec.choice import Codecs
from alq_hvd.communicator.torch_distributed import TorchCommunicator

STEPS = 4
OPTIONS: Mapping[str, Any] = {
    "method": "alq",
    "bits": 3,
    "bucket_size": 64,
    "min_elements": 100,
    "fusion_elements": 1000,
    "schedule": [],  # on a GPU the order of the sums that levels are fitted to is not fixed
    "break_even": False,
    "timeout": 60,
}
CASES: Mapping[str, Mapping[str, Any]] = {
    "all-gather": {"exchange": "allgather"},
    "two-shot": {"exchange": "two_shot"},
    "bfloat16": {"exchange": "two_shot", "dtype": torch.bfloat16},
    "float16": {"exchange": "allgather", "dtype": torch.float16},
    "error feedback": {"exchange": "two_shot", "error_feedback": True},
    "dithered": {"exchange": "two_shot", "method": "optimal", "rotate": True, "bits": 4, "bucket_size": 1024},
    "eden": {"exchange": "two_shot", "method": "eden", "bits": 2},
}


def network(dtype: torch.dtype) -> torch.nn.Module:
    """Return a network with two weights to compress, and two biases too small for that."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.Tanh(), torch.nn.Linear(40, 30)).to(dtype)


def train(device: str, codecs: Codecs | None, dtype: torch.dtype = torch.float32, **options: Any) -> str:
    """Return a digest of the weights after some steps; without ``codecs``, of plain DDP."""
    wrapped = DistributedDataParallel(network(dtype).to(device), bucket_cap_mb=0.004)
    if codecs is not None:
        state = alq_hvd.ddp.CompressionState(codecs=codecs, **{**OPTIONS, **options})
        wrapped.register_comm_hook(state, alq_hvd.ddp.hook)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(1 + dist.get_rank())
    for _ in range(STEPS):
        optimizer.zero_grad()
        inputs, targets = (torch.randn(8, size, generator=generator).to(device, dtype) for size in (24, 30))
        torch.nn.functional.mse_loss(wrapped(inputs), targets).backward()
        optimizer.step()
    weights = torch.cat([parameter.detach().float().reshape(-1) for parameter in wrapped.parameters()])
    return hashlib.sha256(weights.cpu().numpy().tobytes()).hexdigest()


def codec_of(device: str) -> Codecs:
    """Return the codecs of gradients on a device: of a GPU, or emulated."""
    if device != "emulated":
        return Codecs("cuda")
    from tests.support.emulated_device import EmulatedDevices

    return Codecs("cuda", EmulatedDevices())


def trained(device: str) -> dict[str, Any]:
    """Return what each case comes to, with the codec of the device and with that of the host."""
    place = "cpu" if device == "emulated" else device
    found: dict[str, Any] = {}
    for name, options in CASES.items():
        found[name] = {
            "device": train(place, codec_of(device), **options),
            "host": train(place, Codecs("native"), **options),
        }
    return found


def over_nccl(device: str) -> dict[str, Any]:
    """Return what a world of one comes to, in which nothing is quantised, and whether tensors come back over NCCL."""
    sent = torch.arange(512, device=device).to(torch.uint8)
    tensors = TorchCommunicator(None, 60.0).tensors
    (gathered,) = tensors.allgather(sent, "gathered").wait()
    (exchanged,) = tensors.alltoall([sent], "exchanged", alike=True).wait()
    return {
        "hook": train(device, codec_of(device), exchange="two_shot"),
        "hook, device records": train(device, codec_of(device), exchange="two_shot", device_records=True),
        "plain": train(device, None),
        "came back": bool(torch.equal(gathered, sent) and torch.equal(exchanged, sent)),
    }


def main() -> None:
    """Train, and write this rank's results."""
    results, backend, device = sys.argv[1:]
    if device != "emulated":
        torch.cuda.set_device(device)
    dist.init_process_group(backend)
    rank = dist.get_rank()
    found = over_nccl(device) if backend == "nccl" else trained(device)
    (Path(results) / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
