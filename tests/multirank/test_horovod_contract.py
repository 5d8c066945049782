"""What this plugin relies on in Horovod, pinned: when a new Horovod breaks one of these, this file says which."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from tests.support.launch import PROGRAMS, environment, horovodrun

pytestmark = [pytest.mark.multirank, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def observed() -> list[dict[str, Any]]:
    results, _ = horovodrun(2, "contract.py", timeout=250)
    return results


def test_every_compress_of_a_step_precedes_its_first_decompress(observed: list[dict[str, Any]]) -> None:
    for rank in observed:
        for calls in rank["calls"]:
            assert calls == sorted(calls)  # "compress" < "decompress"
            assert calls.count("compress") == calls.count("decompress") == 4


def test_compress_receives_the_gradient_object_of_the_parameter(observed: list[dict[str, Any]]) -> None:
    assert all(rank["identical"] for rank in observed)


def test_what_compress_returns_is_reduced_and_its_context_comes_back(observed: list[dict[str, Any]]) -> None:
    assert all(rank["contexts_match"] for rank in observed)
    assert all(rank["probe"] == [0.5, 3.0] for rank in observed)  # the average of rank 0 and 1, and of 3 and 3


def test_an_unused_parameter_is_handed_over_as_zeros(observed: list[dict[str, Any]]) -> None:
    assert observed[1]["unused_norm"] == 0.0
    assert observed[0]["unused_norm"] > 0.0


def test_the_returned_gradient_replaces_the_parameters(observed: list[dict[str, Any]]) -> None:
    assert all(rank["replaced"] for rank in observed)


def test_a_world_of_one_never_calls_the_compressor() -> None:
    results, _ = horovodrun(1, "contract.py", timeout=250)
    assert results[0]["calls"] == [[], [], []]


def test_a_new_init_makes_a_world_that_is_told_apart() -> None:
    gloo = {"HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo"}
    command = [sys.executable, str(PROGRAMS / "new_world.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env={**environment(), **gloo})
    assert done.stdout.split() == ["same", "changed", "1"], done.stderr


def test_elastic_horovod_has_the_registry_that_we_enter() -> None:
    import horovod.torch.elastic.state as states

    assert {"save", "restore", "sync", "set_value"} <= set(vars(states.StateHandler))
    assert all(len(entry) == 2 for entry in states.get_handler_registry())


def test_the_names_we_import_are_where_we_expect_them() -> None:
    import horovod.torch as hvd
    from horovod.torch.compression import Compressor

    assert {"compress", "decompress"} <= set(vars(Compressor))
    for name in ("allgather_async", "alltoall_async", "broadcast_async"):
        assert {"name", "process_set"} <= set(inspect.signature(getattr(hvd, name)).parameters)
    for name in ("poll", "synchronize", "global_process_set", "mpi_enabled", "mpi_threads_supported"):
        assert hasattr(hvd, name)
