"""Train while ranks come and go: elastic Horovod with compressed gradients. docs/guides/elastic.md explains it.

    horovodrun -np 2 --min-np 1 --max-np 4 --host-discovery-script ./hosts.sh python examples/elastic.py

``hosts.sh`` prints the hosts that there are now, one ``name:slots`` a line. Elastic Horovod runs over Gloo. What a
training with a compression needs beyond stock elastic Horovod is marked (1).
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import numpy as np
import torch
from images.cores import share_cores
from images.data import Images, load_images
from images.options import natural, positive
from images.record import digest
from torch.nn import functional

import alq_hvd
from alq_hvd.run_record import write_json


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train a small network on images under elastic Horovod.")
    parser.add_argument("--steps", type=positive, default=400, help="in all worlds together (default: 400)")
    parser.add_argument("--batch-size", type=positive, default=96, help="images a step, of all ranks (default: 96)")
    parser.add_argument("--commit-every", type=positive, default=5, help="steps between two commits (default: 5)")
    parser.add_argument("--adapt-at", type=natural, nargs="+", default=[0, 20, 100], help="refit the levels there")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds to wait after a step, to have time to watch")
    parser.add_argument("--output", type=Path, help="folder for what each rank has at the end")
    return parser.parse_args()


def batch(images: Images, size: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return this rank's share of a step's batch: the batch depends on the step alone, whatever ranks there are."""
    rows = np.random.default_rng(step).choice(len(images.train_labels), size, replace=False)
    mine = torch.from_numpy(rows[hvd.rank() :: hvd.size()])
    return images.train_images[mine], images.train_labels[mine]


@hvd.elastic.run
def train(state: Any, images: Images, options: argparse.Namespace) -> None:
    """Train to the last step; Horovod calls this again in every world, after the state has reached all of its ranks."""
    version = state.compression.metrics()["levels_version"]
    state.worlds.append({"step": state.step, "size": hvd.size(), "levels_version": version})
    print(f"rank {hvd.rank()} of {hvd.size()}, pid {os.getpid()}: from step {state.step}, levels {version}", flush=True)
    while state.step < options.steps:
        pixels, labels = batch(images, options.batch_size, state.step)
        state.optimizer.zero_grad()
        loss = functional.cross_entropy(state.model(pixels), labels)
        loss.backward()
        state.optimizer.step()
        state.step += 1
        if hvd.rank() == 0 and state.step % 20 == 0:
            sent = state.compression.metrics()["bytes_per_step"]
            print(f"step {state.step}: loss {loss.item():.3f}, sent {sent:,} bytes", flush=True)
        if state.step % options.commit_every == 0:
            state.commit()  # between two steps: what a lost rank costs, and where new hosts are noticed
        time.sleep(options.pause)


def main() -> None:
    """Train, and say what came of it."""
    options = parse()
    share_cores()
    hvd.init()
    torch.manual_seed(0)
    images = load_images(train=4_000, test=1_000)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
    )
    # Two-shot whatever the world: "auto" may leave so small a network on so few ranks to plain Horovod.
    compression = alq_hvd.Compression.alq(
        bits=3, exchange="two_shot", schedule=options.adapt_at, named_parameters=model.named_parameters()
    )
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9),
        named_parameters=model.named_parameters(),
        compression=compression,
    )
    state = hvd.elastic.TorchState(
        model=model,
        optimizer=optimizer,
        compression=compression,  # (1) beside model and optimizer
        step=0,
        worlds=[],
    )
    train(state, images, options)
    with torch.no_grad():
        accuracy = (model(images.test_images).argmax(dim=1) == images.test_labels).float().mean().item()
    if hvd.rank() == 0:
        print(f"test accuracy {accuracy:.4f} after {len(state.worlds)} worlds", flush=True)
    if options.output is not None:
        now = compression.metrics()
        ended = {"weights_sha256": digest(model.state_dict()), "accuracy": accuracy, "worlds": state.worlds}
        ended |= {name: now[name] for name in ("step", "levels", "levels_version", "exchange", "later_shots")}
        write_json(options.output / f"rank-{hvd.rank()}.json", {"size": hvd.size(), **ended})


if __name__ == "__main__":
    main()
