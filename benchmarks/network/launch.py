"""Run a program on every host as one Horovod job over Gloo, without ssh, and collect what each rank prints."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.network.hosts import Hosts

_GRACE = 15.0
"""Seconds in which the other ranks may end after one has failed."""
_RENDEZVOUS = Path(__file__).with_name("rendezvous.py")


class JobFailed(RuntimeError):
    """A rank failed, or the job was not done in time; the text holds its output."""


def run_job(hosts: Hosts, command: list[str], timeout: float) -> list[str]:
    """Return the standard output of every rank, in rank order.

    Raises:
        JobFailed: with the end of a rank's output.
    """
    python = sys.executable
    rendezvous = subprocess.Popen(
        hosts.command("head", python, str(_RENDEZVOUS), *hosts.names),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    ranks: list[subprocess.Popen[str]] = []
    try:
        assert rendezvous.stdout is not None
        port = rendezvous.stdout.readline().strip()
        for rank, name in enumerate(hosts.names):
            environment = {**os.environ, **_variables(hosts, rank, name, port)}
            ranks.append(
                subprocess.Popen(
                    hosts.command(name, *command),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        deadline = time.monotonic() + timeout
        return _outputs(ranks, deadline)
    finally:
        for process in ranks:
            if process.poll() is None:
                process.kill()
                process.communicate()
        rendezvous.communicate(timeout=20)


def _variables(hosts: Hosts, rank: int, name: str, port: str) -> dict[str, str]:
    size = str(len(hosts.names))
    return {
        "HOROVOD_HOSTNAME": name,
        "HOROVOD_RANK": str(rank),
        "HOROVOD_SIZE": size,
        "HOROVOD_LOCAL_RANK": "0",
        "HOROVOD_LOCAL_SIZE": "1",
        "HOROVOD_CROSS_RANK": str(rank),
        "HOROVOD_CROSS_SIZE": size,
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": hosts.address("head"),
        "HOROVOD_GLOO_RENDEZVOUS_PORT": port,
        "HOROVOD_GLOO_IFACE": "eth0",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def _outputs(ranks: list[subprocess.Popen[str]], deadline: float) -> list[str]:
    """Return what the ranks printed, or raise ``JobFailed`` with the end of every failed rank: any may be the cause."""
    outputs, failures = [], []
    for rank, process in enumerate(ranks):
        try:
            output, errors = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            failures.append(f"rank {rank}: not done in time")
            continue
        outputs.append(output)
        if process.returncode:
            failures.append(f"rank {rank}: exit code {process.returncode}\n{errors[-3000:]}")
            deadline = min(deadline, time.monotonic() + _GRACE)  # the others wait for it in vain
    if failures:
        raise JobFailed("\n".join(failures))
    return outputs
