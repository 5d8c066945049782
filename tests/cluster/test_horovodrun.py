"""``horovodrun`` as the launcher of a job, between hosts that reach each other by ssh without a password."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import run, wait_until
from tests.cluster.slurm import Cluster
from tests.cluster.training_job import submit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SERVER = """\
HostKey {keys}/key
AuthorizedKeysFile {keys}/key.pub
PidFile {keys}/%n.pid
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
AcceptEnv *
"""
CLIENT = """\
Host *
    IdentityFile {keys}/key
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
"""


@pytest.fixture
def ssh(cluster: Cluster) -> Iterator[None]:
    """Run an sshd on two nodes, which know one key; the machine's own keys and settings are not touched."""
    assert cluster.hosts is not None
    keys = cluster.directory / "ssh"
    keys.mkdir()
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / "key")])
    (keys / "config").write_text(CLIENT.format(keys=keys))
    for node in ("n1", "n2"):
        (keys / f"sshd-{node}").write_text(SERVER.format(keys=keys).replace("%n", node))
        cluster.hosts.run(node, "mkdir", "-p", "/run/sshd")
        cluster.hosts.run(node, "mount", "--bind", str(keys / "config"), "/etc/ssh/ssh_config")
        cluster.hosts.run(node, "/usr/sbin/sshd", "-f", str(keys / f"sshd-{node}"), "-E", str(keys / f"{node}.log"))
    wait_until("both daemons run", lambda: len(list(keys.glob("*.pid"))) == 2, 20)
    yield
    for node in ("n1", "n2"):
        cluster.hosts.run(node, "kill", (keys / f"{node}.pid").read_text().strip())
        cluster.hosts.run(node, "umount", "/etc/ssh/ssh_config")


def test_a_rendered_job_starts_its_ranks_with_horovodrun(cluster: Cluster, place: Path, ssh: None) -> None:
    assert cluster.hosts is not None
    assert cluster.hosts.run("n1", "ssh", "n2", "hostname").strip() == "n2"
    options = "--nodes 2 --gpus-per-node 2 --cpus-per-task 1 --launcher horovodrun"
    job = submit(cluster, place, options, "--batch-size 64 --epochs 1")
    ended = job.wait_for("COMPLETED", seconds=500)
    assert (ended["NumNodes"], ended["NumTasks"], ended["ExitCode"]) == ("2", "4", "0:0")
    assert cluster.nodes_of(job.number) == ["n1", "n2"]
    result = job.result()
    assert (result["world_size"], result["steps"]) == (4, 8)
    ranks = [json.loads((job.output / f"rank-{rank}.json").read_text()) for rank in range(4)]
    assert {rank["weights_sha256"] for rank in ranks} == {result["weights_sha256"]}
