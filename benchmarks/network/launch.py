"""Run a program on every host as one job over Gloo, of Horovod or torch, without ssh, and collect what ranks print."""

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
    """Return the standard output of every rank of a Horovod job over Gloo, in rank order.

    Raises:
        JobFailed: with the end of a rank's output.
    """
    rendezvous = subprocess.Popen(
        hosts.command("head", sys.executable, str(_RENDEZVOUS), *hosts.names),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert rendezvous.stdout is not None
        port = rendezvous.stdout.readline().strip()
        variables = [_variables(hosts, rank, name, port) for rank, name in enumerate(hosts.names)]
        return run_ranks([hosts.command(name, *command) for name in hosts.names], variables, timeout)
    finally:
        rendezvous.communicate(timeout=20)


def run_torch_job(hosts: Hosts, command: list[str], timeout: float) -> list[str]:
    """Return the standard output of every rank of a job that torchrun could have started, in rank order.

    Raises:
        JobFailed: with the end of a rank's output.
    """
    variables = [
        torch_variables(rank, len(hosts.names), hosts.address(hosts.names[0]), "eth0")
        for rank in range(len(hosts.names))
    ]
    return run_ranks([hosts.command(name, *command) for name in hosts.names], variables, timeout)


def torch_variables(rank: int, ranks: int, address: str, interface: str, port: int = 29_400) -> dict[str, str]:
    """Return the variables by which ranks of torch.distributed find each other over Gloo."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": interface,
    }


def run_ranks(commands: list[list[str]], variables: list[dict[str, str]], timeout: float) -> list[str]:
    """Return the standard output of one process a command, in their order.

    Raises:
        JobFailed: with the end of every failed rank's output.
    """
    ranks: list[subprocess.Popen[str]] = []
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    try:
        for command, own in zip(commands, variables, strict=True):
            ranks.append(
                subprocess.Popen(
                    command,
                    env={**os.environ, **threads, **own},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return _outputs(ranks, time.monotonic() + timeout)
    finally:
        for process in ranks:
            if process.poll() is None:
                process.kill()
                process.communicate()


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
