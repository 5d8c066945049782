"""Run on four ranks of torch.distributed: every collective, process groups that are parts, what goes wrong.

Usage: process_groups.py RESULTS_DIRECTORY
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[3]))  # the program's own folder stands there, not the checkout

from alq_hvd.communicator.base import allgather_bytes, broadcast_bytes, gather_bytes, scatter_bytes
from alq_hvd.communicator.torch_distributed import TorchCommunicator
from alq_hvd.errors import AlqError
from alq_hvd.frontends.process_group import ProcessGroupTransport
from tests.support.leaving import leave_together


def told(sender: int, receiver: int, length: int) -> np.ndarray:
    return np.full(length, 10 * sender + receiver, dtype=np.uint8)


def collectives(ranks: TorchCommunicator) -> dict[str, Any]:
    """Return what this rank received by each way of moving bytes."""
    own, size = ranks.rank, ranks.size
    part = f"part of {own}".encode() * own
    unlike = ranks.alltoall([told(own, to, own + 2 * to) for to in range(size)], "x.unlike").wait()
    alike = ranks.alltoall([told(own, to, 3 * to) for to in range(size)], "x.alike", alike=True).wait()
    return {
        "allgather": [payload.tolist() for payload in ranks.allgather(told(own, 0, 3), "x.allgather").wait()],
        "nothing": [len(payload) for payload in ranks.allgather(told(own, 0, 0), "x.nothing").wait()],
        "unlike": [payload.tolist() for payload in unlike],
        "alike": [payload.tolist() for payload in alike],
        "gather": [payload.tolist() for payload in ranks.gather(told(own, 0, own), size - 1, "x.gather").wait()],
        "broadcast": ranks.broadcast(told(own, 0, 2), size - 1, "x.broadcast").wait().tolist(),
        "bytes": [raw.decode() for raw in allgather_bytes(ranks, part, "x.bytes")],
        "gathered": [raw.decode() for raw in gather_bytes(ranks, part, 1, "x.gathered")],
        "scattered": scatter_bytes(ranks, [b"a" * to for to in range(size)], 0, "x.scattered").decode(),
        "spread": broadcast_bytes(ranks, part, size - 1, "x.spread").decode(),
    }


def out_of_step(ranks: TorchCommunicator) -> bool:
    """Return whether all pair right that start second collectives when they like, each rank at another time."""
    drawn, right, size = np.random.default_rng(ranks.rank), True, ranks.size
    for step in range(20):
        first, second = [], []
        for group in range(8):
            own = np.array([step, group, ranks.rank], dtype=np.uint8)
            first.append(ranks.alltoall([own] * size, f"group{group}.shot0", alike=True))
            time.sleep(0.002 * drawn.random())
            while len(second) < len(first) and drawn.random() < 0.6:
                neighbours = first[len(second)].wait()[(ranks.rank + 1) % size].copy()
                second.append(ranks.allgather(neighbours, f"group{len(second)}.shot1"))
        while len(second) < len(first):
            neighbours = first[len(second)].wait()[(ranks.rank + 1) % size].copy()
            second.append(ranks.allgather(neighbours, f"group{len(second)}.shot1"))
        for group, pending in enumerate(second):
            wanted = [[step, group, (sender + 1) % size] for sender in range(size)]
            right &= [payload.tolist() for payload in pending.wait()] == wanted
    return right


def means(group: Any) -> list[list[float]]:
    """Return exact means over ``group`` of float32 numbers of the host, in full and in half precision."""
    ranks, averaged = TorchCommunicator(group, timeout=60), []
    for half in (False, True):
        own = np.arange(3, dtype=np.float32) * (1 + ranks.rank)
        ProcessGroupTransport(ranks).plain.start(own.view(np.uint8), half, "x.means").wait()
        averaged.append(own.tolist())
    return averaged


def error(doing: Any) -> str:
    """Return the kind and the text of the error of this package that ``doing`` raises."""
    try:
        doing()
    except AlqError as raised:
        return f"{type(raised).__name__}: {raised}"
    return "none"


def main(results: Path) -> None:
    """Try everything, and write this rank's results."""
    outcome: dict[str, Any] = {"not started": error(TorchCommunicator)}
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    everyone = TorchCommunicator(timeout=60)
    outcome |= {"whole": collectives(everyone), "out of step": out_of_step(everyone)}
    parts = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    part = TorchCommunicator(parts[rank // 2], timeout=60)
    outcome |= {"part": collectives(part) if rank < 2 else None, "place": [part.rank, part.size]}
    outcome["outside"] = error(lambda: TorchCommunicator(parts[1 - rank // 2]))
    nodes = ProcessGroupTransport(everyone).nodes(2, "x.nodes")
    outcome["nodes"] = [
        [int(payload[0]) for payload in ranks.allgather(told(rank, 0, 1), "x").wait()]
        for ranks in (nodes.inside, nodes.across)
    ]
    outcome["one node"] = ProcessGroupTransport(everyone).nodes(None, "x.nodes").inside.size
    outcome["unlike nodes"] = error(lambda: ProcessGroupTransport(everyone).nodes(3, "x.nodes"))
    outcome["means"] = [means(None), means(dist.new_group(backend="cuda:gloo"))]  # which has nothing for the host
    hasty = TorchCommunicator(timeout=5)
    dist.barrier()
    hasty.allgather(told(rank, 0, 1), "x.first").wait()
    if rank:
        outcome["left alone"] = error(lambda: hasty.allgather(told(rank, 0, 1), "x.second").wait())
        outcome["without lanes"] = error(lambda: TorchCommunicator(timeout=5).allgather(told(rank, 0, 1), "x").wait())
    (results / f"{rank}.json").write_text(json.dumps(outcome))
    leave_together(results, dist.get_world_size())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
