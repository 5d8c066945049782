"""What is known of every node of a cluster, and which nodes are unlike the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

Value = TypeVar("Value")
CLOCK_SECONDS = 0.1
"""Clocks this far apart spoil time stamps in logs and file systems; nodes with NTP are within milliseconds."""
SLOW = 0.5
"""Share of the median bandwidth below which a node is odd."""
LATE = 5.0
"""Multiple of the median latency above which a node is odd."""


@dataclass(frozen=True, slots=True)
class Node:
    """Hold what one node says and what was measured of it.

    Attributes:
        host: its name.
        cores: that this job may use.
        gpus: their model names, in order.
        versions: of what all nodes must agree on, by name.
        clock: seconds its clock is ahead of the first node's.
        latency: seconds of a small message to a neighbour, one way, the better of its two.
        bandwidth: bytes a second each way with a neighbour, the better of its two; 0 where there is no other node.
    """

    host: str
    cores: int
    gpus: tuple[str, ...]
    versions: dict[str, str]
    clock: float
    latency: float
    bandwidth: float


def oddities(nodes: Sequence[Node]) -> dict[str, list[str]]:
    """Return, for every node that is unlike the others, in what; what the most nodes have counts as right."""
    found: dict[str, list[str]] = {}

    def complain(node: Node, text: str) -> None:
        found.setdefault(node.host, []).append(text)

    hosts = Counter(node.host for node in nodes)
    cores, gpus = _most(node.cores for node in nodes), _most(node.gpus for node in nodes)
    clock = median(node.clock for node in nodes)
    latency, bandwidth = median(node.latency for node in nodes), median(node.bandwidth for node in nodes)
    for node in nodes:
        if hosts[node.host] > 1:
            complain(
                node, f"{hosts[node.host]} ranks call their host so; expected one rank a node, all names different"
            )
        if node.cores != cores:
            complain(node, f"{node.cores} cores, others {cores}")
        if node.gpus != gpus:
            complain(node, f"GPUs: {describe(node.gpus)}, others {describe(gpus)}")
        for name, version in node.versions.items():
            usual = _most(other.versions.get(name, "") for other in nodes)
            if version != usual:
                complain(node, f"{name} {version}, others {usual}")
        if abs(node.clock - clock) > CLOCK_SECONDS:
            complain(node, f"clock {node.clock - clock:+.3f} s from the others'")
        if node.bandwidth < SLOW * bandwidth:
            complain(node, f"{node.bandwidth / 1e6:.0f} MB/s, others {bandwidth / 1e6:.0f}")
        if node.latency > LATE * latency:
            complain(node, f"latency {node.latency * 1e6:.0f} us, others {latency * 1e6:.0f}")
    return found


def table(nodes: Sequence[Node]) -> str:
    """Return one line a node, the odd ones marked, and below what is odd about them."""
    odd = oddities(nodes)
    lines = [f"  {'node':<20}{'cores':>6}  {'GPUs':<24}{'clock ms':>10}{'latency us':>12}{'MB/s':>10}"]
    for node in nodes:
        mark = "! " if node.host in odd else "  "
        lines.append(
            f"{mark}{node.host:<20}{node.cores:>6}  {describe(node.gpus):<24}{1e3 * node.clock:>10.1f}"
            f"{1e6 * node.latency:>12.1f}{node.bandwidth / 1e6:>10.0f}"
        )
    lines.append(
        f"\n{', '.join(f'{name} {version}' for name, version in nodes[0].versions.items())} on {nodes[0].host}"
    )
    lines += [f"odd: {host}: {text}" for host, texts in odd.items() for text in dict.fromkeys(texts)]
    return "\n".join(lines if odd else [*lines, f"all {len(nodes)} nodes are alike"])


def describe(gpus: Sequence[str]) -> str:
    """Return GPUs as "4 x NVIDIA H100"."""
    return ", ".join(f"{count} x {name}" for name, count in Counter(gpus).items()) or "none"


def _most(values: Iterable[Value]) -> Value:
    return Counter(values).most_common(1)[0][0]
