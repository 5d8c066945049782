"""Two shots in the aggregator and behind the Horovod-facing shell: levels of their own, overlap, state, refusals."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
import torch

import alq_hvd
from alq_hvd.codec.choice import choose_codec
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.engine.aggregator import Aggregator
from alq_hvd.engine.options import Options
from alq_hvd.engine.transport import PlainTransport
from alq_hvd.errors import ConfigurationError, ConfigurationMismatch, LevelsMismatch
from tests.support.cases import each
from tests.support.exchanging import Watched, aggregate, gradient
from tests.support.stand_in import reduce_gradients

TWO_SHOT: dict[str, Any] = {"method": "alq", "exchange": "two_shot", "bits": (3, 4), "bucket_size": 512}
SHAPES = {"one": (60, 50), "two": (40, 90), "three": (2000,)}


def parameters_with_gradients(rank: int, step: int) -> dict[str, torch.nn.Parameter]:
    parameters = {name: torch.nn.Parameter(torch.zeros(shape)) for name, shape in SHAPES.items()}
    fill(parameters, rank, step)
    return parameters


def fill(parameters: dict[str, torch.nn.Parameter], rank: int, step: int) -> None:
    for index, parameter in enumerate(parameters.values()):
        values = gradient(rank, parameter.numel(), step=10 * step + index)
        parameter.grad = torch.from_numpy(values).reshape(parameter.shape)


def named_gradients(parameters: dict[str, torch.nn.Parameter]) -> list[tuple[str, Any]]:
    return [(name, parameter.grad) for name, parameter in parameters.items()]


def test_each_shot_fits_levels_of_its_own_the_same_on_every_rank() -> None:
    def program(ranks: LoopbackCommunicator) -> list[dict[str, Any]]:
        _, aggregator = aggregate(ranks, 512 * 12, steps=4, schedule=[0, 2], **TWO_SHOT)
        return aggregator.shots.metrics()

    first, *others = LoopbackWorld(3).run(program)
    for rank in others:
        assert [shot["levels"] for shot in rank] == [shot["levels"] for shot in first]
    gradients, sums = first
    assert (len(gradients["levels"]), len(sums["levels"]), sums["bits"]) == (8, 16, 4)
    for shot in first:
        assert [entry["step"] for entry in shot["adaptations"]] == [0, 2]
        assert shot["levels_version"] >= 1
        assert all(entry["objective_after"] <= entry["objective_before"] for entry in shot["adaptations"])
        assert 0 < shot["relative_variance"] < 2


def test_the_second_shots_levels_are_fitted_to_sums_and_not_to_gradients() -> None:
    """Gradients of one spike a bucket, whose sums over ranks are dense: the tables must differ."""

    def program(ranks: LoopbackCommunicator) -> list[dict[str, Any]]:
        options = Options(**{**TWO_SHOT, "method": "optimal", "bits": 3, "schedule": [0]})
        aggregator = Aggregator(options, choose_codec("auto"))
        aggregator.connect(PlainTransport(ranks), ranks)
        values = np.zeros(512 * 8, dtype=np.float32)
        values[ranks.rank :: 8] = gradient(ranks.rank, 512)
        values[ranks.rank :: 512] = 10
        aggregator.start(0, values)
        aggregator.result(0, 1.0)
        aggregator.end_step()
        return aggregator.shots.metrics()

    gradients, sums = LoopbackWorld(8).run(program)[0]
    inner = [np.abs(np.array(shot["levels"])) for shot in (gradients, sums)]
    assert np.sort(inner[0])[1] < np.sort(inner[1])[1]


def test_a_rank_without_a_chunk_takes_part_in_the_adaptation_of_sums() -> None:
    def program(ranks: LoopbackCommunicator) -> dict[str, Any]:
        _, aggregator = aggregate(ranks, 2 * 512, schedule=[0], **TWO_SHOT)
        return aggregator.shots.metrics()[1]

    sums = [shot["levels"] for shot in LoopbackWorld(5).run(program)]
    assert all(levels == sums[0] for levels in sums)
    assert LoopbackWorld(5).run(program)[0]["adaptations"][0]["accepted"] is True


def test_the_second_shot_starts_while_the_backward_pass_still_runs() -> None:
    """Two of three gradients are handed over, no result is asked for: the first group's sums must be on their way."""

    def program(ranks: LoopbackCommunicator) -> list[str]:
        watched = Watched(ranks)
        parameters = parameters_with_gradients(ranks.rank, 0)
        compression = alq_hvd.Compression.qsgdinf(
            exchange="two_shot", bucket_size=64, min_elements=1, fusion_elements=1,
            named_parameters=parameters.items(), communicator=watched,
        )  # fmt: skip
        reduce_gradients(ranks, compression, named_gradients(parameters))  # ranks have agreed on where gradients go
        watched.started.clear()
        compression.compress(parameters["one"].grad)
        ranks.allgather(np.zeros(1, np.uint8), "every rank has started").wait()
        compression.compress(parameters["two"].grad)
        return [name for _, name, _ in watched.started if ".group" in name]

    for names in LoopbackWorld(3).run(program):
        assert "alq_hvd.group0.shot1" in names
        assert not any("group2" in name for name in names)


def test_groups_start_and_results_are_taken_in_any_order_on_any_rank() -> None:
    """Two ranks that wait for the sums of different groups must not wait for each other."""

    def program(ranks: LoopbackCommunicator) -> bytes:
        aggregator = Aggregator(Options(**{**TWO_SHOT, "schedule": []}), choose_codec("auto"))
        aggregator.connect(PlainTransport(ranks), ranks)
        rng = np.random.default_rng(ranks.rank)
        results: dict[int, np.ndarray] = {}
        for _ in range(3):
            for group in rng.permutation(6).tolist():
                aggregator.start(group, gradient(ranks.rank, 700 + group, step=group))
                time.sleep(float(rng.uniform(0, 0.002)))
                aggregator.advance()
            for group in rng.permutation(6).tolist():
                results[group] = aggregator.result(group, 1.0)
            aggregator.end_step()
        return b"".join(results[group].tobytes() for group in range(6))

    first, *others = LoopbackWorld(4).run(program)
    assert all(other == first for other in others)


@pytest.mark.parametrize("bits", [4, (3, 5)])
def test_a_resumed_run_continues_both_shots_bit_for_bit(bits: Any) -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        def compression(name: str) -> Any:
            return alq_hvd.Compression.alq(
                bits, 64, exchange="two_shot", schedule=[0, 2, 4], min_elements=1, name=name,
                named_parameters=parameters.items(), communicator=ranks,
            )  # fmt: skip

        def train(compression: Any, steps: range) -> list[bytes]:
            taken = []
            for step in steps:
                fill(parameters, ranks.rank, step)
                reduced = reduce_gradients(ranks, compression, named_gradients(parameters))
                taken.append(b"".join(reduced[name].numpy().tobytes() for name in SHAPES))
            return taken

        parameters = parameters_with_gradients(ranks.rank, 0)
        straight = compression("straight")
        whole = train(straight, range(6))
        cut = compression("cut")
        train(cut, range(3))
        resumed = compression("resumed")
        resumed.load_state_dict(json.loads(json.dumps(cut.state_dict())))
        assert train(resumed, range(3, 6)) == whole[3:]
        assert resumed.state_dict() == straight.state_dict()
        json.dumps(resumed.metrics())

    LoopbackWorld(2).run(program)


@pytest.mark.parametrize("before_the_first_step", [True, False])
def test_ranks_that_hold_other_levels_for_sums_are_stopped(before_the_first_step: bool) -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = parameters_with_gradients(ranks.rank, 0)
        compression = alq_hvd.Compression.alq(
            3, 64, exchange="two_shot", schedule=[9], named_parameters=parameters.items(), communicator=ranks
        )

        def load_other_levels() -> None:
            if ranks.rank == 1:
                state = compression.state_dict()
                state["later_shots"][0]["levels"]["version"] = 7
                compression.load_state_dict(state)

        if before_the_first_step:
            load_other_levels()
            with pytest.raises(ConfigurationMismatch, match=r"levels\[1\]: rank 0 .*version 0, .*version 7"):
                reduce_gradients(ranks, compression, named_gradients(parameters))
            return
        reduce_gradients(ranks, compression, named_gradients(parameters))
        load_other_levels()
        with pytest.raises(LevelsMismatch, match="another rank has other levels"):
            reduce_gradients(ranks, compression, named_gradients(parameters))

    LoopbackWorld(2).run(program)


@each(
    ("options", "message"),
    [
        ({"exchange": "ring"}, "exchange: expected one of auto, allgather, two_shot, hierarchical, got 'ring'"),
        ({"bits": (4, 8, 8)}, "bits: expected one width, or one for each of two shots"),
        ({"bits": (4, 9)}, "bits: alq is defined at 1 to 8 bits, got 9"),
        ({"bits": (4, 8), "exchange": "allgather"}, "bits: allgather quantises once and takes one width"),
    ],
)
def test_an_impossible_exchange_says_what_is_valid(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        alq_hvd.Compression.alq(**options)


@each(
    ("ranks", "bits", "chosen"),
    [(2, 4, "allgather"), (4, 4, "allgather"), (5, 4, "two_shot"), (32, 3, "two_shot"), (5, (4, 8), "allgather"),
     (6, (4, 8), "two_shot")],
)  # fmt: skip
def test_auto_takes_two_shot_where_it_sends_less_than_half(ranks: int, bits: Any, chosen: str) -> None:
    def program(ranks: LoopbackCommunicator) -> str:
        return aggregate(ranks, 1000, bits=bits)[1].exchange.name

    assert set(LoopbackWorld(ranks).run(program)) == {chosen}
