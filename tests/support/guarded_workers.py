"""A rank with workers of every kind, for tests that signal its whole process group: ``python -m ... SCENARIO``.

It prints ``ready`` when all workers work, waits for a line, and prints what became of them as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from alq_hvd.checkpoint import PreemptionGuard, shield_workers
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld

METHODS = ("fork", "spawn", "forkserver")
SECONDS = 100.0


class Endless(IterableDataset[int]):
    """Yield numbers slowly, so that a batch that is asked for has not been made before."""

    def __iter__(self) -> Iterator[int]:
        for number in range(10**6):
            time.sleep(0.02)
            yield number


def loader(method: str) -> Iterator[torch.Tensor]:
    return iter(DataLoader(Endless(), num_workers=1, multiprocessing_context=method, batch_size=4))


def double(number: int) -> int:
    return 2 * number


def one_rank() -> PreemptionGuard:
    return PreemptionGuard(communicator=LoopbackCommunicator(LoopbackWorld(1), 0))


def tell_and_wait() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def loading(guard: PreemptionGuard, loaders: dict[str, Iterator[torch.Tensor]], pools: dict[str, Any]) -> None:
    """Take batches and results of every worker before the signals and after them."""
    for batches in loaders.values():
        next(batches)
    for pool in pools.values():
        pool.map(double, range(4))
    tell_and_wait()
    took: dict[str, Any] = {"received": guard.received is not None, "stop": guard.stop_agreed()}
    for name, batches in loaders.items():
        took[name] = len([next(batches) for _ in range(6)])
    for name, pool in pools.items():
        took[name] = pool.map_async(double, range(4)).get(timeout=SECONDS)
        pool.terminate()
        pool.join()
    print(json.dumps(took), flush=True)


def inside() -> None:
    with one_rank() as guard:
        loaders = {f"loader {method}": loader(method) for method in METHODS}
        pools = {f"pool {method}": multiprocessing.get_context(method).Pool(1) for method in METHODS}
        loading(guard, loaders, pools)


def before() -> None:
    shield_workers()
    loaders = {f"loader {method}": loader(method) for method in METHODS}
    pools = {f"pool {method}": multiprocessing.get_context(method).Pool(1) for method in METHODS}
    for batches in loaders.values():
        next(batches)
    for pool in pools.values():
        pool.map(double, range(4))
    with one_rank() as guard:
        loading(guard, loaders, pools)


def unshielded() -> None:
    sleeper = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    sleeper.start()
    with one_rank():
        print(json.dumps({"pid": sleeper.pid}), flush=True)
    sleeper.terminate()


def children() -> None:
    """End children of every kind from the parent, inside a guard that has received a signal itself."""
    ended: dict[str, Any] = {}
    with one_rank() as guard:
        os.kill(os.getpid(), signal.SIGUSR1)
        for method in METHODS:
            process = multiprocessing.get_context(method).Process(target=time.sleep, args=(60,))
            process.start()
            time.sleep(0.1)
            process.terminate()
            process.join(SECONDS)
            ended[f"process {method}"] = process.exitcode
            pool = multiprocessing.get_context(method).Pool(2)
            pool.terminate()
            pool.join()
            ended[f"pool {method}"] = "ended"
        for name, number in (("term", signal.SIGTERM), ("usr1", signal.SIGUSR1)):
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            os.kill(pid, number)
            ended[f"fork {name}"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            command = subprocess.Popen(["sleep", "60"])
            command.send_signal(number)
            ended[f"command {name}"] = command.wait(SECONDS)
        pid = os.fork()
        if pid == 0:  # a child that sends itself a signal
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        ended["fork itself"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        guard.received = None
        pid = os.fork()
        if pid == 0:  # a child with a handler and a child of its own
            grandchild = os.fork()
            if grandchild == 0:
                time.sleep(60)
                os._exit(0)
            os.kill(grandchild, signal.SIGTERM)
            status = os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1])
            signal.signal(signal.SIGTERM, lambda *_: os._exit(5 if status == -signal.SIGTERM else 6))
            os.kill(os.getppid(), signal.SIGUSR1)  # the handler is in place
            time.sleep(60)
            os._exit(0)
        while guard.received is None:
            time.sleep(0.01)
        os.kill(pid, signal.SIGTERM)
        ended["fork handles"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    {"inside": inside, "before": before, "unshielded": unshielded, "children": children}[sys.argv[1]]()
