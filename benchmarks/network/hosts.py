"""Several hosts on one Linux machine: each in namespaces of its own, joined by a switch, with links of a chosen rate.

Needs root, iproute2 and util-linux. Nothing is added to the machine's own network: the switch lives in a namespace
too, no route leads out of it, and when the first process of a host ends, all that ran on the host ends with it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

PREFIX = "10.79.0"
TOOLS = ("ip", "tc", "unshare", "nsenter")
_SWITCH, _HEAD = "switch", "head"
_QUEUE = "20ms"
_SMALLEST_BURST = 131_072
"""Bytes: a token bucket must hold a whole batch of segmentation offload, or every batch is cut up."""


class HostsUnavailable(RuntimeError):
    """This machine cannot make hosts; the text says what is missing."""


def require_hosts() -> None:
    """Raise ``HostsUnavailable`` unless namespaces and links can be made."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise HostsUnavailable(f"not found: {', '.join(missing)}. apt-get install iproute2 util-linux")
    if os.geteuid() != 0:
        raise HostsUnavailable("expected root, which namespaces and shaped links need, got another user: use sudo")


class Hosts:
    """Hold ``count`` hosts node01, node02, ... and a host ``head`` whose link is never shaped.

    A context manager: everything is gone when it ends.

    Args:
        count: 1 to 99.
        rate: of each node's link, both ways, as ``tc`` writes it (``100mbit``), or ``"none"``.
    """

    def __init__(self, count: int, rate: str) -> None:
        self.names = [f"node{index:02d}" for index in range(1, count + 1)]
        self._rate = rate
        self._first: dict[str, tuple[subprocess.Popen[str], int]] = {}

    def __enter__(self) -> Hosts:
        require_hosts()
        self._files = tempfile.TemporaryDirectory(prefix="alq-hosts-")
        try:
            self._etc_hosts().write_text(self._addresses())
            for name in (_SWITCH, _HEAD, *self.names):
                self._boot(name)
            self._inside(_SWITCH, "ip", "link", "add", "br0", "type", "bridge")
            self._inside(_SWITCH, "ip", "link", "set", "br0", "up")
            for name in (_HEAD, *self.names):
                self._plug(name)
                if name != _HEAD and self._rate != "none":
                    self._shape(name)
        except BaseException:
            self._down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._down()

    def address(self, name: str) -> str:
        """Return the address of a host."""
        return f"{PREFIX}.{100 if name == _HEAD else 1 + self.names.index(name)}"

    def command(self, name: str, *command: str) -> list[str]:
        """Return the command line that runs ``command`` on a host, in the current directory."""
        enter = ["nsenter", "-t", str(self._first[name][1]), "--net", "--uts", "--ipc", "--mount", "--pid"]
        return [*enter, f"--wd={os.getcwd()}", *command]

    def _addresses(self) -> str:
        lines = [f"{self.address(name)} {name}" for name in (_HEAD, *self.names)]
        return "\n".join(["127.0.0.1 localhost", *lines, ""])

    def _etc_hosts(self) -> Path:
        return Path(self._files.name) / "hosts"

    def _boot(self, name: str) -> None:
        """Start the first process of a host, which sets the place up and then only waits.

        Memory that processes share by name is the host's own: libraries take a common one for a common host. /tmp is
        shared, so that a checkout below it can be seen.
        """
        script = "\n".join([
            "set -e",
            f"hostname {name}",
            "ip link set lo up",
            f"mount --bind {self._etc_hosts()} /etc/hosts",
            "mount -t tmpfs -o mode=1777 tmpfs /dev/shm",
            "echo ready",
            "exec sleep infinity",
        ])  # fmt: skip
        spaces = ["--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        process = subprocess.Popen(
            ["unshare", *spaces, "bash", "-c", script],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        said = process.stdout.readline()
        if said != "ready\n":
            rest = process.communicate(timeout=10)[0]
            raise HostsUnavailable(f"{name} did not start: {said}{rest}")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        self._first[name] = (process, int(children[0]))

    def _plug(self, name: str) -> None:
        pid = str(self._first[name][1])
        self._inside(_SWITCH, "ip", "link", "add", f"p-{name}", "type", "veth", "peer", "name", "eth0", "netns", pid)
        self._inside(_SWITCH, "ip", "link", "set", f"p-{name}", "master", "br0", "up")
        self._inside(name, "ip", "address", "add", f"{self.address(name)}/24", "dev", "eth0")
        self._inside(name, "ip", "link", "set", "eth0", "up")
        # Some machines pace by default (bbr), which fills a shaped link in another way than the usual cubic.
        route = ["ip", "route", "replace", f"{PREFIX}.0/24", "dev", "eth0", "src", self.address(name)]
        self._inside(name, *route, "congctl", "cubic")

    def _shape(self, name: str) -> None:
        burst = max(_SMALLEST_BURST, bits_per_second(self._rate) // 8000)
        shaping = ["root", "tbf", "rate", self._rate, "burst", str(burst), "latency", _QUEUE]
        self._inside(name, "tc", "qdisc", "add", "dev", "eth0", *shaping)
        self._inside(_SWITCH, "tc", "qdisc", "add", "dev", f"p-{name}", *shaping)

    def _inside(self, name: str, *command: str) -> None:
        enter = ["nsenter", "-t", str(self._first[name][1]), "--net"]
        done = subprocess.run([*enter, *command], capture_output=True, text=True, timeout=20)
        if done.returncode:
            raise HostsUnavailable(f"{name}: {' '.join(command)}: {done.stderr.strip()}")

    def _down(self) -> None:
        for process, first in self._first.values():
            if process.poll() is None:
                os.kill(first, signal.SIGKILL)
        for process, _ in self._first.values():
            process.communicate(timeout=20)
        self._first = {}
        self._files.cleanup()


def bits_per_second(rate: str) -> int:
    """Return the rate that ``tc`` understands by ``kbit``, ``mbit`` and ``gbit``."""
    units: Sequence[tuple[str, float]] = (("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9))
    for unit, factor in units:
        if rate.endswith(unit):
            return int(float(rate.removesuffix(unit)) * factor)
    raise ValueError(f"rate: expected a number and kbit, mbit or gbit, or none, got {rate!r}")
