"""A program of torch.distributed that knows nothing of this package: counts, stops on USR1 with a checkpoint, goes on.

torch_program.py DIRECTORY STEPS
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

asked = []
signal.signal(signal.SIGUSR1, lambda number, frame: asked.append(number))
dist.init_process_group("gloo")
directory, steps, rank = Path(sys.argv[1]), int(sys.argv[2]), dist.get_rank()
checkpoint = directory / "checkpoint"
total = int(checkpoint.read_text()) if checkpoint.exists() else 0
started = total
for step in range(started, steps):
    stop = torch.tensor([step, rank, bool(asked)])
    dist.all_reduce(stop)
    total = step + 1
    if stop[2]:
        if rank == 0:
            checkpoint.write_text(str(total))
        dist.barrier()
        sys.exit(75)
    time.sleep(0.05)
    (directory / f"step-{rank}").write_text(str(total))
gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
line = f"{rank} of {dist.get_world_size()} local {os.environ['LOCAL_RANK']} on {os.uname().nodename} from {started} "
(directory / f"end-{rank}").write_text(f"{line}sum {int(stop[1])} gpus {gpus} threads {os.environ['OMP_NUM_THREADS']}")
dist.destroy_process_group()
