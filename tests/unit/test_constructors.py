"""``alq_hvd.Compression``: one constructor a method, which knows every option and says what is wrong with one."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest
import torch

import alq_hvd
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.engine.options import Options
from alq_hvd.errors import ConfigurationError, StateError
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.methods import NAMES
from alq_hvd.quantiser.policies import LevelUpdate
from alq_hvd.quantiser.statistics import GradientStatistics, bin_edges
from tests.support.small_model import backward, compressor, model, named_gradients
from tests.support.stand_in import reduce_gradients


def test_every_method_has_a_constructor_that_shows_every_option() -> None:
    options = {field.name for field in fields(Options)} - {"method"}
    for name in NAMES:
        constructor = getattr(alq_hvd.Compression, name)
        assert options <= inspect.signature(constructor).parameters.keys(), name
        assert constructor().options.method == name
    assert alq_hvd.Compression.terngrad().options.bits == 2
    made = alq_hvd.Compression.alq(4, 512, name="by position").options
    assert made == Options(method="alq", bits=4, bucket_size=512, name="by position")


def test_an_unknown_option_is_named_beside_those_there_are() -> None:
    with pytest.raises(TypeError, match="expected options among .*error_feedback.* got bukket"):
        alq_hvd.Compression.alq(bukket=3)


def test_a_constructor_given_in_place_of_what_it_makes_says_how_to_call_it() -> None:
    for call in (alq_hvd.Compression.eden.compress, alq_hvd.Compression.eden.decompress):
        with pytest.raises(ConfigurationError, match=r"got it uncalled: write compression=alq_hvd.Compression.eden\("):
            call(torch.ones(3))


def test_scalars_of_numpy_and_torch_are_numbers() -> None:
    for bits in (np.int64(4), np.uint8(4), torch.tensor(4)):
        options = alq_hvd.Compression.qsgdinf(
            bits, clip=np.float32(2.5), seed=np.int32(3), timeout=torch.tensor(9.0, dtype=torch.float64)
        ).options
        assert (options.bits, options.clip, options.seed, options.timeout) == (4, 2.5, 3, 9.0)
        assert all(type(value) in (int, float) for value in (options.bits, options.clip, options.seed, options.timeout))
    assert alq_hvd.Compression.alq(bits=np.array([4, 8]).tolist()).options.bits == (4, 8)


def test_named_parameters_that_are_none_are_refused_at_once() -> None:
    layer = torch.nn.Linear(5, 5)
    for wrong in (layer.parameters(), [("weight", layer.weight, 3)], ["weight"]):
        with pytest.raises(ConfigurationError, match=r"named_parameters: expected pairs.*model.named_parameters\(\)"):
            alq_hvd.Compression.alq(named_parameters=wrong)
    with pytest.raises(ConfigurationError, match="expected unique names, got w twice"):
        alq_hvd.Compression.alq(named_parameters=[("w", layer.weight), ("w", layer.bias)])


def test_a_timeout_is_a_number_of_seconds() -> None:
    for wrong in (None, 0, -1.0, "9"):
        with pytest.raises(ConfigurationError, match="timeout: expected a positive number of seconds"):
            alq_hvd.Compression.alq(timeout=wrong)


def test_tied_weights_named_twice_count_once() -> None:
    def program(ranks: LoopbackCommunicator) -> int:
        parameters = model()
        named = [*parameters.items(), ("head_again", parameters["head"])]
        compression = alq_hvd.Compression.alq(
            bits=4, min_elements=100, named_parameters=named, communicator=ranks, bucket_size=64
        )
        backward(parameters, ranks.rank, 0)
        reduce_gradients(ranks, compression, named_gradients(parameters))
        elements: int = compression.metrics()["compressed_elements"]
        return elements

    parameters = model()
    assert LoopbackWorld(2).run(program) == [sum(parameters[name].numel() for name in ("conv", "linear", "head"))] * 2


def test_two_compressions_of_one_program_have_names_of_their_own_and_a_named_one_keeps_its_name() -> None:
    mine = [alq_hvd.Compression.alq(name="mine").options.name for _ in range(3)]
    assert mine == ["mine", "mine.2", "mine.3"]


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_goes_on_with_the_copies_of_its_parameters(way: str) -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        original = compressor(ranks, parameters, method="alq", schedule=[0], exchange="allgather")
        backward(parameters, ranks.rank, 0)
        reduce_gradients(ranks, original, named_gradients(parameters))
        original._communicator = None  # what a program has: Horovod
        together: Any = {"parameters": parameters, "compression": original}
        twin = copy.deepcopy(together) if way == "deepcopy" else pickle.loads(pickle.dumps(together))
        for made, own in ((original, parameters), (twin["compression"], twin["parameters"])):
            assert made.metrics()["levels_version"] == 1
            assert [parameter for _, parameter in made._named] == [own[name] for name, _ in made._named]
        assert twin["parameters"]["conv"] is not parameters["conv"]
        assert twin["compression"].state_dict() == original.state_dict()

    LoopbackWorld(2).run(program)


@dataclass(frozen=True)
class Quantiles:
    """Put the levels where equally many coordinates lie between them: a policy in ten lines."""

    adapts: bool = True
    weight_exponent: int = 0

    def update(self, statistics: GradientStatistics, current: Levels) -> LevelUpdate:
        below = np.cumsum(statistics.mass) / statistics.total_mass
        inner = np.interp(np.linspace(0, 1, len(current))[1:-1], below, bin_edges()[1:])
        values = np.unique(np.concatenate([[-1.0], inner, [1.0]]).astype(np.float32))
        return LevelUpdate(Levels(values, current.version + 1), 1.0, 0.5)


def test_a_policy_of_the_users_own_is_a_method() -> None:
    def program(ranks: LoopbackCommunicator) -> dict[str, Any]:
        parameters = model()
        compression = alq_hvd.Compression.using(Quantiles())(
            4, 64, min_elements=100, schedule=[0], named_parameters=parameters.items(), communicator=ranks
        )
        for step in range(2):
            backward(parameters, ranks.rank, step)
            reduce_gradients(ranks, compression, named_gradients(parameters))
        metrics: dict[str, Any] = compression.metrics()
        state = compression.state_dict()
        alq_hvd.Compression.using(Quantiles())(4, 64).load_state_dict(state)
        with pytest.raises(StateError, match="method: expected 'optimal'"):
            alq_hvd.Compression.optimal(4, 64).load_state_dict(state)
        return metrics

    first, second = LoopbackWorld(2).run(program)
    assert first["method"] == "Quantiles(adapts=True, weight_exponent=0)"
    assert first["adaptations"][0]["accepted"] is True
    assert first["levels"] == second["levels"]
    assert first["relative_variance"] < 0.1
    with pytest.raises(ConfigurationError, match="or a policy, got 3 without adapts, weight_exponent, update"):
        alq_hvd.Compression.using(3)()  # type: ignore[arg-type]
