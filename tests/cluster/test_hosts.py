"""Hosts made of namespaces: apart from each other, joined by links that keep to their rate, gone without a trace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.network.hosts import Hosts, HostsUnavailable, require_hosts

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(150)]


@pytest.fixture(autouse=True)
def root() -> None:
    try:
        require_hosts()
    except HostsUnavailable as error:
        pytest.skip(str(error))


def output(hosts: Hosts, name: str, *command: str) -> str:
    done = subprocess.run(hosts.command(name, *command), capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


def test_hosts_have_names_and_addresses_of_their_own_and_end_together() -> None:
    with Hosts(2, "100mbit") as hosts:
        assert [output(hosts, name, "hostname") for name in hosts.names] == ["node01", "node02"]
        assert hosts.address("node02") in output(hosts, "node02", "ip", "-brief", "address", "show", "eth0")
        assert "tbf" in output(hosts, "node01", "tc", "qdisc", "show", "dev", "eth0")
        assert "node01" in output(hosts, "node02", "getent", "hosts", "node01")
        firsts = [Path(f"/proc/{first}") for _, first in hosts._first.values()]
        assert all(first.exists() for first in firsts)
        waiting = subprocess.Popen(hosts.command("node01", "sleep", "1000"))
    assert waiting.wait(timeout=20) != 0
    assert not any(first.exists() and (first / "cmdline").read_bytes() for first in firsts)


def test_the_benchmark_runs_end_to_end(tmp_path: Path) -> None:
    stored = tmp_path / "exchange.json"
    options = ["--case", "2:none", "--elements", "64000", "--tensors", "2", "--repeats", "1", "--output", str(stored)]
    program = Path(__file__).parents[2] / "benchmarks" / "exchange.py"
    ways = ["--ways", "fp32", "fp16", "two_shot 4"]
    done = subprocess.run([sys.executable, str(program), *options, *ways], capture_output=True, text=True, timeout=140)
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(stored.read_text())["cases"]
    sent = {row["way"]: row["bytes_per_element"] for row in case["rows"]}
    assert sent["fp32"] > 4.0
    assert sent["two_shot 4"] < sent["fp16"] < sent["fp32"]
    assert stored.with_suffix(".png").stat().st_size > 0
