"""Threads of the process groups that we make have ended before the interpreter does: later, they would abort it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import atexit
from pathlib import Path

def threads():
    return sum((task / "comm").read_text().startswith("pt_gloo") for task in Path("/proc/self/task").iterdir())

atexit.register(lambda: print(threads()))  # the first of them runs last

import numpy as np
import torch.distributed as dist
from alq_hvd.communicator.torch_distributed import TorchCommunicator

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
print(threads())
ranks = TorchCommunicator()
ranks.allgather(np.ones(8, np.uint8), "first").wait()
print(threads())
"""


def test_lanes_end_with_the_program_though_nobody_closes_them() -> None:
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM]
    run = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "")
    of_the_world, with_lanes, at_exit = map(int, run.stdout.split())
    assert with_lanes > of_the_world == at_exit
