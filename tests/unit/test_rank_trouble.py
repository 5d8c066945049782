"""Ranks that are not like the others, and MPI that cannot serve: what is said, and what is done instead."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alq_hvd import backends
from alq_hvd.codec.choice import choose_codec
from alq_hvd.codec.keys import stream_key
from alq_hvd.communicator import mpi
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.engine.handshake import agree_on_configuration
from alq_hvd.engine.options import Options
from alq_hvd.errors import ConfigurationMismatch
from alq_hvd.quantiser.record import RecordLayout, Stamp


def said(own: list[dict[str, Any]]) -> list[str]:
    """Return what each rank is told when ranks come with these configurations."""

    def program(ranks: LoopbackCommunicator) -> str:
        try:
            agree_on_configuration(ranks, own[ranks.rank], "options")
        except ConfigurationMismatch as mismatch:
            return str(mismatch)
        return "agreed"

    return LoopbackWorld(len(own)).run(program)


def test_another_version_or_step_on_one_rank_is_named_on_every_rank() -> None:
    usual = {"bits": 3, "completed steps": 7, "alq_hvd": "1.2.0"}
    for name, other in (("alq_hvd", "1.1.9"), ("completed steps", 6)):
        told = said([usual, usual, {**usual, name: other}])
        for rank, text in enumerate(told):
            assert f"{name}: rank 0 has {usual[name]}, rank 2 has {other} (seen on rank {rank})" in text
            assert "start every rank with the same options, model and version" in text
    assert said([usual] * 3) == ["agreed"] * 3


def test_mpi_that_can_not_serve_says_why_and_levels_travel_beside_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank tells whether it has a channel of its own; one that has none is enough for the records' own way."""

    def horovod(enabled: bool, threads: bool) -> Any:
        return lambda: SimpleNamespace(mpi_enabled=lambda: enabled, mpi_threads_supported=lambda: threads)

    for enabled, threads, packages, reason in (
        (False, True, True, "Horovod was not started with MPI"),
        (True, False, True, "MPI was initialised without MPI_THREAD_MULTIPLE (is HOROVOD_MPI_THREADS_DISABLE set?)"),
        (True, True, False, "mpi4py is not installed: pip install 'alq-hvd[mpi]'"),
    ):
        monkeypatch.setattr(backends, "horovod", horovod(enabled, threads))
        monkeypatch.setattr(backends, "available", lambda package, packages=packages: packages)
        assert mpi.unusable(4) == reason


def test_no_memory_for_a_record_leaves_the_codec_as_it_was() -> None:
    """An allocation that fails ends the call with MemoryError; the next one gives the bits that it would have given."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", "from tests.unit.test_rank_trouble import encode_without_memory as e; e()"]
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}  # a new process has no memory put by
    run = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "")


def encode_without_memory() -> None:
    codec, options = choose_codec("auto"), Options(method="optimal", bits=8, bucket_size=64)
    levels = options.resolve().initial(8)
    stamp, key = Stamp(levels.digest, 0, 0), stream_key(seed=1, step=0, rank=0, group=0, shot=0)

    def encode(values: np.ndarray) -> np.ndarray:
        return codec.encode(values, RecordLayout(len(values), options.quantiser()), levels, key, stamp)

    small, large = np.random.default_rng(0).standard_normal(1000, dtype=np.float32), np.ones(2**26, np.float32)
    before = encode(small)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, resource.RLIM_INFINITY))
    with pytest.raises(MemoryError):
        encode(large)
    assert np.array_equal(before, encode(small))
