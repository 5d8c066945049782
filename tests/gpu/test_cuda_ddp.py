"""Training under PyTorch's own DDP with gradients on a GPU: neither Horovod nor MPI is needed, nor a second GPU.

``tests/unit/test_gpu_machine.py`` runs the same program with emulated kernels.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.launch import torchrun

PROGRAM = str(Path(__file__).with_name("ddp_ranks.py"))
pytestmark = pytest.mark.timeout(200)


def test_two_ranks_that_share_a_gpu_train_over_gloo() -> None:
    """Records travel through the host; the weights are those of the codec of the host, bit for bit."""
    (first, second), _ = torchrun(2, PROGRAM, "gloo", "cuda:0", timeout=180)
    for case, weights in first.items():
        assert second[case] == weights, case
        assert weights["device"] == weights["host"], case
    assert len({weights["device"] for weights in first.values()}) == len(first)


def test_a_world_of_one_trains_over_nccl() -> None:
    """There nothing is quantised, and DDP's own all-reduce is left to NCCL; two ranks of NCCL need two GPUs."""
    (found,), _ = torchrun(1, PROGRAM, "nccl", "cuda:0", timeout=180)
    assert found["came back"]
    assert found["hook"] == found["hook, device records"] == found["plain"]
