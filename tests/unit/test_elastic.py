"""A compression in a world that changes: what is carried, what is forgotten, and that all ranks agree again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import horovod.torch as hvd
import pytest
import torch

import alq_hvd
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.errors import AlqError, CallOrderError, ConfigurationMismatch
from alq_hvd.exchange.kinds import choose
from alq_hvd.frontends.horovod import elastic
from alq_hvd.frontends.horovod.elastic import CompressionHandler
from tests.support.cases import each
from tests.support.exchanging import Watched
from tests.support.small_model import SHAPES, backward, compressor, exact, model, named_gradients
from tests.support.stand_in import reduce_gradients

OPTIONS = {"schedule": [0, 3, 6], "exchange": "two_shot", "measure_every": 1}
"""Levels change in every stretch of steps that these tests take."""


@dataclass
class Process:
    """Be one process with its model and compression, which lives through several worlds."""

    parameters: dict[str, torch.nn.Parameter]
    place: Watched
    compression: Any
    handler: CompressionHandler

    @classmethod
    def start(cls, ranks: LoopbackCommunicator, *, named: bool = True, **options: Any) -> Process:
        parameters = model()
        place = Watched(ranks)
        compression = compressor(place, parameters if named else None, **{**OPTIONS, **options})  # type: ignore[arg-type]
        return cls(parameters, place, compression, CompressionHandler(compression))

    def enter(self, ranks: LoopbackCommunicator) -> None:
        """Do what ``hvd.elastic.run`` does when it has made a new world, and synchronise as it does then."""
        self.place.inner = ranks
        self.handler.sync()

    def step(self, step: int) -> bytes:
        """Reduce the gradients of a step; return the bits that this rank got."""
        backward(self.parameters, self.place.rank, step)
        reduced = reduce_gradients(self.place.inner, self.compression, named_gradients(self.parameters))
        return b"".join(reduced[name].numpy().tobytes() for name in SHAPES)

    def carried(self) -> dict[str, Any]:
        """Return the state that all ranks must share: all but what a rank counts and measures for itself."""
        state = self.compression.state_dict()
        shots = [state, *state["later_shots"]]
        history = [(shot["levels"], shot["adaptations"]) for shot in shots]
        return {"step": state["step"], "seed": state["seed"], "history": history}


def first_world(size: int, steps: int = 2, **options: Any) -> list[Process]:
    """Return the processes of a world that has taken and committed ``steps`` steps."""

    def program(ranks: LoopbackCommunicator) -> Process:
        process = Process.start(ranks, **options)
        for step in range(steps):
            process.step(step)
        process.handler.save()
        return process

    return LoopbackWorld(size).run(program)


def next_world(
    old: list[Process], size: int, steps: range, first: Callable[[Process], Any] = Process.carried, **options: Any
) -> tuple[list[Process], list[list[bytes]]]:
    """Run ``steps`` in a world of ``old`` processes and as many new ones as are missing."""

    def program(ranks: LoopbackCommunicator) -> tuple[Process, list[bytes]]:
        process = old[ranks.rank] if ranks.rank < len(old) else Process.start(ranks, **options)
        process.enter(ranks)
        first(process)
        return process, [process.step(step) for step in steps]

    done = LoopbackWorld(size).run(program)
    return [process for process, _ in done], [results for _, results in done]


def restarted(state: dict[str, Any], size: int, steps: range, **options: Any) -> list[bytes]:
    """Return what fresh processes get that all load ``state``: what a carried compression must be equal to."""

    def program(ranks: LoopbackCommunicator) -> list[bytes]:
        process = Process.start(ranks, **options)
        process.compression.load_state_dict(state)
        return [process.step(step) for step in steps]

    return LoopbackWorld(size).run(program)[0]


@each("named", [True, False])
@each(("before", "after"), [(2, 3), (3, 2), (2, 2), (4, 1), (1, 2)])
def test_a_new_world_goes_on_like_one_that_has_loaded_the_state(before: int, after: int, named: bool) -> None:
    old = first_world(before, named=named)
    state = old[0].compression.state_dict()
    survivors = old[: min(before, after) - (before == after)]  # the same size: one process has been replaced
    processes, results = next_world(survivors, after, range(2, 8), named=named)
    assert all(other == results[0] for other in results)
    assert results[0] == restarted(state, after, range(2, 8), named=named)
    assert all(process.carried() == processes[0].carried() for process in processes)
    assert processes[0].compression.metrics()["step"] == 8
    if after > 1:
        versions = [entry["version"] for entry in processes[0].compression.metrics()["adaptations"]]
        assert versions == [1, 2, 3]  # a world of one fits no levels: the next one makes up for it


def test_a_world_of_one_reduces_exactly_and_gives_its_step_to_the_next() -> None:
    alone, results = next_world(first_world(2)[:1], 1, range(2, 4))
    expected = b"".join(values.tobytes() for values in exact(3, 1).values())
    assert results[0][1] == expected
    assert alone[0].compression.metrics()["exchange"] == ""
    pair, _ = next_world(alone, 2, range(4, 6))
    assert [process.compression.metrics()["step"] for process in pair] == [6, 6]


@each("named", [True, False])
@each("handed_over", [1, len(SHAPES)])
def test_a_step_that_a_rank_did_not_survive_is_forgotten_and_done_again(handed_over: int, named: bool) -> None:
    """Step 3 fits levels, and rank 2 dies in it: after some gradients, or after all and before any result."""
    old = first_world(3, steps=3, named=named)
    committed, state = old[0].carried(), old[0].compression.state_dict()

    class Dead(Exception):
        """Stands for a killed process."""

    def fails(ranks: LoopbackCommunicator) -> None:
        process = old[ranks.rank]
        process.place.inner = ranks
        backward(process.parameters, ranks.rank, 3)
        if ranks.rank == 2:
            for _, gradient in named_gradients(process.parameters)[:handed_over]:
                process.compression.compress(gradient)
            raise Dead
        with pytest.raises(AlqError):
            reduce_gradients(ranks, process.compression, named_gradients(process.parameters))

    with pytest.raises(Dead):
        LoopbackWorld(3).run(fails)
    for survivor in old[:2]:
        with pytest.raises(CallOrderError, match="between steps"):
            survivor.handler.save()
        survivor.handler.restore()
        assert survivor.carried() == committed
    processes, results = next_world(old[:2], 2, range(3, 7))
    assert all(other == results[0] for other in results)
    assert results[0] == restarted(state, 2, range(3, 7), named=named)
    assert processes[0].carried() == processes[1].carried()


def test_a_new_world_is_noticed_when_nobody_says_so() -> None:
    """Same ranks, same size, everything under way lost, and no handler: as after ``hvd.shutdown(); hvd.init()``."""
    old = first_world(2)
    for process in old:
        backward(process.parameters, 0, 2)
        process.compression.compress(process.parameters["linear"].grad)  # a world ends in the middle of a step

    def program(ranks: LoopbackCommunicator) -> list[bytes]:
        old[ranks.rank].place.inner = ranks
        return [old[ranks.rank].step(step) for step in range(2, 6)]

    one, other = LoopbackWorld(2).run(program)
    assert one == other


def test_a_rank_that_has_not_loaded_the_state_is_named_with_the_remedy() -> None:
    old = first_world(2)

    def program(ranks: LoopbackCommunicator) -> None:
        if ranks.rank == 0:
            old[0].place.inner = ranks
        process = old[0] if ranks.rank == 0 else Process.start(ranks)
        with pytest.raises(ConfigurationMismatch, match=r"completed steps: rank 0 has 2, rank 1 has 0.*TorchState"):
            process.step(2)

    LoopbackWorld(2).run(program)


def test_exchange_and_bytes_belong_to_the_world_and_bytes_total_to_the_rank() -> None:
    old = first_world(2, exchange="auto")
    assert old[0].compression.metrics()["exchange"] == choose("auto", 2, (3, 3), 64).name
    sent = [process.compression.metrics()["bytes_total"] for process in old]
    assert min(sent) > 0

    def counts(process: Process) -> None:
        total = process.compression.metrics()["bytes_total"]
        assert total == (sent[process.place.rank] if process.place.rank < 2 else 0)

    processes, _ = next_world(old, 8, range(2, 4), counts, exchange="auto")
    assert processes[0].compression.metrics()["exchange"] == choose("auto", 8, (3, 3), 64).name
    assert choose("auto", 8, (3, 3), 64) is not choose("auto", 2, (3, 3), 64)


def test_a_rank_that_keeps_its_place_keeps_its_residuals_and_a_world_of_another_size_has_none() -> None:
    options = {"error_feedback": True, "schedule": []}
    old = first_world(2, **options)

    def entries(process: Process) -> list[Any]:
        return process.compression.state_dict()["residuals"]["entries"]  # type: ignore[no-any-return]

    committed = [[entry["values"] for entry in entries(process)] for process in old]
    assert all(committed)

    def unfinished(ranks: LoopbackCommunicator) -> None:
        old[ranks.rank].place.inner = ranks
        old[ranks.rank].step(2)
        old[ranks.rank].handler.restore()

    LoopbackWorld(2).run(unfinished)

    def found(process: Process) -> None:
        rank, kept = process.place.rank, [entry["values"] for entry in entries(process)]
        assert len(kept) == (len(committed[0]) if rank == 0 else 0)
        assert all(torch.equal(*pair) for pair in zip(kept, committed[0], strict=False))

    same_size, results = next_world(old[:1], 2, range(2, 4), found, **options)
    state = {**same_size[0].compression.state_dict(), "residuals": {"owner": None, "entries": []}}
    assert results[0] == results[1]
    _, results = next_world(same_size, 3, range(4, 5), **options)
    assert results[0] == results[1] == results[2] == restarted(state, 3, range(4, 5), **options)


def test_a_gradient_that_was_sparse_is_expected_dense_again() -> None:
    """New ranks do not know that an embedding's gradient was sparse: all learn it again, together."""

    def sparse(process: Process, step: int) -> None:
        """Take a step in which Horovod reduces one gradient without asking."""
        backward(process.parameters, process.place.rank, step)
        dense = [pair for pair in named_gradients(process.parameters) if pair[0] != "head"]
        process.parameters["head"].grad = process.parameters["head"].grad.to_sparse()
        reduce_gradients(process.place.inner, process.compression, dense)

    def before(ranks: LoopbackCommunicator) -> Process:
        process = Process.start(ranks)
        for step in range(2):
            sparse(process, step)
        return process

    old = LoopbackWorld(2).run(before)

    def after(ranks: LoopbackCommunicator) -> dict[str, Any]:
        process = old[ranks.rank] if ranks.rank < 2 else Process.start(ranks)
        process.enter(ranks)
        for step in range(2, 4):
            sparse(process, step)
        return process.carried()

    first, *others = LoopbackWorld(3).run(after)
    assert all(other == first for other in others)


def test_horovods_own_state_takes_a_compression() -> None:
    parameters = model()
    compression = alq_hvd.Compression.alq(bits=3, named_parameters=parameters.items())
    state = hvd.elastic.TorchState(compression=compression, batch=0)
    assert isinstance(state._handlers["compression"], CompressionHandler)
    assert state.compression is compression
    elastic.register()
    other = alq_hvd.Compression.alq(bits=3, named_parameters=parameters.items())
    state.compression = other
    assert state._handlers["compression"].value is other
    registered = [entry for entry in hvd.elastic.state.get_handler_registry() if entry[1] is CompressionHandler]
    assert len(registered) == 1
