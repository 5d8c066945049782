"""Threads of the process groups that we make have ended before the interpreter does: later, they would abort it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import atexit
import time
from pathlib import Path

def threads():
    return {task.name for task in Path("/proc/self/task").iterdir()}

def left():
    return threads() & lanes

def say_which_are_left():  # a thread that has been joined is listed for a moment longer
    give_up = time.monotonic() + 10
    while left() and time.monotonic() < give_up:
        time.sleep(0.01)
    print(len(left()))

atexit.register(say_which_are_left)  # the first of them runs last

import numpy as np
import torch.distributed as dist
from alq_hvd.communicator.torch_distributed import TorchCommunicator

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
of_the_world = threads()
ranks = TorchCommunicator()
ranks.allgather(np.ones(8, np.uint8), "first").wait()
lanes = threads() - of_the_world
print(len(lanes))
"""


def test_lanes_end_with_the_program_though_nobody_closes_them() -> None:
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM]
    run = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "")
    with_lanes, at_exit = map(int, run.stdout.split())
    assert with_lanes > 0 == at_exit
