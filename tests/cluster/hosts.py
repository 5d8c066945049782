"""Several pretend hosts on one machine: namespaces with a network, a name, shared memory and processes of their own.

Needs root. Nothing outside the namespaces changes: the switch that joins the hosts is a namespace too, without a route
out of it. A host is its first process: killing that ends all that runs on it, which is how a host crashes here. The
file system is shared, as a cluster's home directories are; /tmp, /dev/shm, /run and /etc/hosts are each host's own.
"""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

NETWORK = "10.91.0"
_READY_SECONDS = 20.0

_INIT = """
set -e
hostname "$1"
ip link set lo up
mount -t tmpfs -o mode=1777,size=4g tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
# Slurm's and Open MPI's files in /tmp bear no host's name: every host needs its own, with what is kept put back.
for kept in "${@:4}"; do mkdir -p "/run/kept$kept"; mount --bind "$kept" "/run/kept$kept"; done
mount -t tmpfs -o mode=1777 tmpfs /tmp
# Home directories that only their owner may enter, and behind which lies something that every user of a host needs.
for closed in $3; do mount -t tmpfs -o mode=755 tmpfs "$closed"; done
for kept in "${@:4}"; do mkdir -p "$kept"; mount --bind "/run/kept$kept" "$kept"; umount "/run/kept$kept"; done
[ "$1" = switch ] || mount --bind "$2/hosts" /etc/hosts
[ ! -d "$2/etc/slurm" ] || { mkdir -p /etc/slurm; mount --bind "$2/etc/slurm" /etc/slurm; }
touch "$2/ready/$1"
while :; do sleep 86400 & wait $!; done
"""
"""Run as process 1 of a host. A shell and not ``sleep`` alone, because process 1 has to collect orphans."""


def wait_until(what: str, condition: Callable[[], object], seconds: float, pause: float = 0.1) -> None:
    """Wait for ``condition``; raise ``TimeoutError`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(pause)


def run(command: Sequence[str], seconds: float = 30.0, check: bool = True, **options: object) -> str:
    """Run a command to its end and return what it prints; raise with that when it fails."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        **options,  # type: ignore[call-overload]
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: status {done.returncode}: {done.stdout}")
    output: str = done.stdout
    return output


class Hosts:
    """Keep the hosts ``head`` and ``nodes`` up, joined by a switch, until ``close``.

    Args:
        directory: for small files of the hosts, and seen by all; its ``etc/slurm``, when there is one, is every host's
            /etc/slurm.
        nodes: names of the hosts beside ``head``.
        shared: directories that all hosts, and all users on them, see even if they are below /tmp, or below a directory
            that only root may enter.
    """

    def __init__(self, directory: Path, nodes: Sequence[str], shared: Sequence[Path] = ()) -> None:
        self.directory = directory
        self.addresses = {"head": f"{NETWORK}.254"} | {
            name: f"{NETWORK}.{number}" for number, name in enumerate(nodes, start=1)
        }
        needed = {path.resolve() for path in (directory, *shared)}
        self._closed = sorted(
            {str(parent) for path in needed for parent in path.parents if not parent.stat().st_mode & stat.S_IXOTH}
        )
        below = {path for path in needed if any(path.is_relative_to(top) for top in ("/tmp", *self._closed))}
        self._kept = [str(path) for path in below if not below & set(path.parents)]
        self._first_processes: dict[str, subprocess.Popen[bytes]] = {}
        self._pids: dict[str, int] = {}
        (directory / "ready").mkdir(parents=True)
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self.addresses.items())]
        (directory / "hosts").write_text("\n".join(lines) + "\n")
        try:
            self._boot("switch")
            self._in_network("switch", "ip", "link", "add", "br0", "type", "bridge")
            self._in_network("switch", "ip", "link", "set", "br0", "up")
            for name in self.addresses:
                self.start(name)
        except BaseException:
            self.close()
            raise

    def start(self, name: str) -> None:
        """Boot a host and plug it into the switch."""
        self._boot(name)
        port = f"p-{name}"
        peer = ["type", "veth", "peer", "name", "eth0", "netns", str(self._pids[name])]
        self._in_network("switch", "ip", "link", "add", port, *peer)
        self._in_network("switch", "ip", "link", "set", port, "master", "br0", "up")
        self._in_network(name, "ip", "address", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        self._in_network(name, "ip", "link", "set", "eth0", "up")

    def crash(self, name: str) -> None:
        """Kill a host and all that runs on it, without a word to anybody."""
        first = self._first_processes.pop(name)
        first.kill()  # with unshare goes its child, process 1 of the host, and with that all others
        first.wait(_READY_SECONDS)

    def on(self, name: str, *command: str) -> list[str]:
        """Return the command line that runs ``command`` on a host, in this process's working directory."""
        enter = ["nsenter", "-t", str(self._pids[name]), "--net", "--uts", "--ipc", "--mount", "--pid"]
        return [*enter, f"--wd={os.getcwd()}", "--", *command]

    def run(self, name: str, *command: str, seconds: float = 30.0, environment: Mapping[str, str] | None = None) -> str:
        """Run ``command`` on a host to its end and return what it prints."""
        return run(self.on(name, *command), seconds, env={**os.environ, **(environment or {})})

    def close(self) -> None:
        """End every host and all that runs on it."""
        for name in [name for name in self._first_processes if name != "switch"]:
            self.crash(name)
        if "switch" in self._first_processes:
            self.crash("switch")

    def _boot(self, name: str) -> None:
        ready = self.directory / "ready" / name
        ready.unlink(missing_ok=True)
        apart = ["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        # Should the tests themselves be killed, the hosts go with them.
        command = ["setpriv", "--pdeathsig", "KILL", *apart, "bash", "-c", _INIT, "init", name, str(self.directory)]
        command.append(" ".join(self._closed))
        command += self._kept
        with (self.directory / f"{name}.log").open("wb") as log:
            first = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._first_processes[name] = first
        children = Path(f"/proc/{first.pid}/task/{first.pid}/children")
        wait_until(f"{name} has a first process", lambda: children.read_text().split(), _READY_SECONDS, 0.01)
        self._pids[name] = int(children.read_text().split()[0])
        wait_until(f"{name} is ready, see {self.directory}/{name}.log", ready.exists, _READY_SECONDS, 0.01)

    def _in_network(self, name: str, *command: str) -> None:
        run(["nsenter", "-t", str(self._pids[name]), "--net", *command])
