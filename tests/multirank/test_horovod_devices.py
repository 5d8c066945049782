"""Gradients on an emulated device through stock Horovod and its hooks, on real ranks over MPI and Gloo."""

from __future__ import annotations

import pytest

from tests.support import emulated_device
from tests.support.cases import each
from tests.support.emulated_device import needs_compiler
from tests.support.launch import horovodrun

pytestmark = [pytest.mark.multirank, needs_compiler, pytest.mark.timeout(300)]


PLACES = ("host", "device", "mixed", "direct")


@pytest.fixture(scope="module", params=[False, True], ids=["mpi", "gloo"])
def digests(request: pytest.FixtureRequest) -> list[dict[str, str]]:
    emulated_device.build()  # so that no rank has to wait for it
    results, _ = horovodrun(2, "devices.py", gloo=request.param, timeout=200)
    return results


@each("exchange", ["allgather", "two_shot"])
@each("dtype", ["float32", "bfloat16"])
def test_weights_are_those_of_gradients_on_the_host(digests: list[dict[str, str]], exchange: str, dtype: str) -> None:
    found = {rank[f"{exchange}, {dtype}, {place}"] for rank in digests for place in PLACES}
    assert len(found) == 1
