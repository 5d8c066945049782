"""Ranks of Horovod and of torch.distributed as forks of one process, which nobody ends when one of them has gone."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ended:
    """Say how a rank has ended.

    Attributes:
        status: as ``subprocess`` has it: negative for a signal; ``None`` where it had to be killed.
        seconds: from the start of the ranks.
        output: what it wrote.
    """

    status: int | None
    seconds: float
    output: str


def fork(
    front_end: str, ranks: int, survivors: Sequence[int], program: Callable[[], None], limit: float, folder: Path
) -> list[Ended]:
    """Run ``program()`` in forks with the environment that a launcher would give each; return how each has ended.

    A fork goes on to the ordinary end of its interpreter, with all that libraries do there. Once all ``survivors``
    have ended, or after ``limit`` seconds, what still runs is killed.
    """
    began, pids = time.monotonic(), []
    environments = _horovod(ranks) if front_end == "horovod" else _torch(ranks)
    for rank, environment in enumerate(environments):
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            log = os.open(folder / f"{rank}.log", os.O_WRONLY | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.update(environment)
            program()
            sys.exit()
        pids.append(pid)
    ended: dict[int, tuple[int | None, float]] = {}
    while len(ended) < ranks:
        for rank, pid in enumerate(pids):
            if rank not in ended:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    ended[rank] = os.waitstatus_to_exitcode(status), time.monotonic() - began
        if time.monotonic() - began > limit or all(rank in ended for rank in survivors):
            for rank, pid in enumerate(pids):
                if rank not in ended:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    ended[rank] = None, time.monotonic() - began
        time.sleep(0.01)
    return [Ended(*ended[rank], (folder / f"{rank}.log").read_text(errors="replace")) for rank in range(ranks)]


def _horovod(ranks: int) -> list[dict[str, str]]:
    from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
    from horovod.runner.http.http_server import RendezvousServer

    server = RendezvousServer()
    port = server.start()
    plan = get_host_assignments(parse_hosts(f"localhost:{ranks}"), ranks)
    server.init(plan)
    shared = {
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1",
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_IFACE": "lo",
        "HOROVOD_SIZE": str(ranks),
        "HOROVOD_LOCAL_SIZE": str(ranks),
        "HOROVOD_CROSS_RANK": "0",
        "HOROVOD_CROSS_SIZE": "1",
        "HOROVOD_HOSTNAME": "localhost",
    }
    return [{**shared, "HOROVOD_RANK": str(rank), "HOROVOD_LOCAL_RANK": str(rank)} for rank in range(ranks)]


def _torch(ranks: int) -> list[dict[str, str]]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
