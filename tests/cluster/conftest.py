"""One cluster for all tests of this folder: it comes up in seconds and goes with the last test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster, missing


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Return a cluster of 8 nodes with 4 pretend GPUs each."""
    lacking = missing()
    if lacking:
        pytest.fail(f"the cluster tests lack {', '.join(lacking)}: run tests/cluster/install.sh as root")
    directory = Path(tempfile.mkdtemp(prefix="alq-cluster-"))
    directory.chmod(0o755)
    up = Cluster(directory, 8)
    yield up
    up.close()


@pytest.fixture
def place(cluster: Cluster, request: pytest.FixtureRequest) -> Path:
    """Return a directory that all nodes and users see."""
    path = cluster.directory / "jobs" / request.node.name
    path.mkdir(parents=True)
    return path
