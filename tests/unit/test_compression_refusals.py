"""What the Horovod-facing shell refuses, and what it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import alq_hvd
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.errors import (
    CallOrderError,
    ConfigurationError,
    ConfigurationMismatch,
    StateError,
    UnsupportedReduction,
    UnsupportedTensor,
)
from tests.support.cases import each
from tests.support.small_model import backward, compressor, model, named_gradients
from tests.support.stand_in import adasum, reduce_gradients


def test_a_float8_gradient_is_refused() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        with pytest.raises(UnsupportedTensor, match=r"expected.*float32.*got torch.float8_e4m3fn"):
            compressor(ranks, None).compress(torch.zeros(5000).to(torch.float8_e4m3fn))

    LoopbackWorld(2).run(program)


def test_adasum_is_refused() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        compression = compressor(ranks, parameters)
        with pytest.raises(UnsupportedReduction, match="Adasum"):
            compression.compress(parameters["conv"])
        backward(parameters, ranks.rank, 0)
        with pytest.raises(UnsupportedReduction, match="Adasum"):
            reduce_gradients(ranks, compression, named_gradients(parameters), adasum)

    LoopbackWorld(2).run(program)


def test_reducescatter_is_refused() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        compression = compressor(ranks, parameters)
        backward(parameters, ranks.rank, 0)
        probe, context = compression.compress(parameters["conv"].grad)
        with pytest.raises(UnsupportedReduction, match="reducescatter"):
            compression.decompress(probe[:4], context)

    LoopbackWorld(2).run(program)


@each(
    ("option", "values"),
    [
        ("bits", (3, 4)),
        ("bucket_size", (64, 65)),
        ("seed", (0, 1)),
        ("schedule", ([0], [0, 1])),
        ("clip", (None, 2.5)),
        ("rotate", (None, True)),
        ("correlated", (None, False)),
    ],
)
def test_ranks_with_different_options_are_named_with_both_values(option: str, values: tuple[Any, Any]) -> None:
    def program(ranks: LoopbackCommunicator) -> str:
        parameters = model()
        compression = compressor(ranks, parameters, **{option: values[ranks.rank == 2]})
        backward(parameters, ranks.rank, 0)
        with pytest.raises(ConfigurationMismatch, match=rf"^{option}: rank 0 has .*, rank 2 has ") as caught:
            reduce_gradients(ranks, compression, named_gradients(parameters))
        return str(caught.value)

    messages = LoopbackWorld(3).run(program)
    assert str(values[1]) in messages[0] or option == "schedule"


def test_ranks_with_different_models_name_the_first_parameter_that_differs() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        if ranks.rank:
            parameters["linear"] = torch.nn.Parameter(torch.zeros(130, 41))
        compression = compressor(ranks, parameters)
        backward(parameters, ranks.rank, 0)
        with pytest.raises(ConfigurationMismatch, match=r"gradients\[1\].*linear.*5200.*5330"):
            reduce_gradients(ranks, compression, named_gradients(parameters))

    LoopbackWorld(2).run(program)


def test_without_names_another_call_order_on_one_rank_is_found_before_a_wrong_gradient_is_returned() -> None:
    parameters_of_one_size = {name: torch.nn.Parameter(torch.zeros(300)) for name in "abc"}

    def program(ranks: LoopbackCommunicator) -> None:
        parameters = {name: torch.nn.Parameter(p.detach().clone()) for name, p in parameters_of_one_size.items()}
        compression = compressor(ranks, None)
        for step in range(2):
            backward(parameters, ranks.rank, step)
            gradients = named_gradients(parameters)
            if step == 1 and ranks.rank == 1:
                gradients.reverse()
            if step == 1:
                with pytest.raises(CallOrderError, match=r"named_parameters=model.named_parameters\(\)"):
                    reduce_gradients(ranks, compression, gradients)
            else:
                reduce_gradients(ranks, compression, gradients)

    LoopbackWorld(2).run(program)


def test_a_parameter_that_the_optimizer_does_not_reduce_is_named() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        compression = compressor(ranks, parameters)
        backward(parameters, ranks.rank, 0)
        with pytest.raises(CallOrderError, match="1 are missing: head"):
            reduce_gradients(ranks, compression, named_gradients(parameters)[:-1])

    LoopbackWorld(2).run(program)


def test_one_compression_for_two_optimizers_is_refused() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        compression = compressor(ranks, parameters)
        backward(parameters, ranks.rank, 0)
        compression.compress(parameters["conv"].grad)
        with pytest.raises(CallOrderError, match="conv was handed over twice"):
            compression.compress(parameters["conv"].grad)

    LoopbackWorld(2).run(program)


def test_samples_without_a_gradient_say_which_is_missing() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        compression = compressor(
            ranks, parameters, schedule=[0], sample_gradients=lambda: [{"conv": torch.zeros(2352)}]
        )
        backward(parameters, ranks.rank, 0)
        with pytest.raises(ConfigurationError, match="expected a gradient of linear in every sample, got 1 others"):
            reduce_gradients(ranks, compression, named_gradients(parameters))

    LoopbackWorld(2).run(program)


def test_samples_need_names() -> None:
    with pytest.raises(ConfigurationError, match="expected named_parameters beside it"):
        alq_hvd.Compression.alq(sample_gradients=list)


@each(
    ("damage", "message"),
    [
        ({"bits": 4}, "bits: expected 3, got a state with 4"),
        ({"method": "qsgd"}, "method: expected 'alq', got a state with 'qsgd'"),
        ({"levels": {}}, "expected the result of state_dict"),
        ({"state_version": 99}, "state_version"),
        ({"state_version": 4}, "state_version: expected 5, got a state with 4"),
        ({"correlated": False}, "correlated: expected True, got a state with False"),
    ],
)
def test_a_state_of_something_else_is_refused(damage: dict[str, Any], message: str) -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        compression = compressor(ranks, model())
        with pytest.raises(StateError, match=message):
            compression.load_state_dict({**compression.state_dict(), **damage})

    LoopbackWorld(1).run(program)


def test_ranks_that_resume_from_different_states_are_stopped_before_anything_is_exchanged() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        compression = compressor(ranks, parameters)
        if ranks.rank == 1:
            compression.load_state_dict({**compression.state_dict(), "step": 17})
        backward(parameters, ranks.rank, 0)
        with pytest.raises(ConfigurationMismatch, match="completed steps: rank 0 has 0, rank 1 has 17.*the same state"):
            reduce_gradients(ranks, compression, named_gradients(parameters))

    LoopbackWorld(2).run(program)


def test_a_state_loaded_on_one_rank_in_the_middle_is_found_before_a_wrong_number_is_returned() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        compression = compressor(ranks, parameters)
        for step in range(2):
            backward(parameters, ranks.rank, step)
            if step == 0:
                reduce_gradients(ranks, compression, named_gradients(parameters))
                if ranks.rank == 1:
                    compression.load_state_dict({**compression.state_dict(), "step": 17})
        with pytest.raises(CallOrderError, match="another rank is at another step"):
            reduce_gradients(ranks, compression, named_gradients(parameters))

    LoopbackWorld(2).run(program)


@each(
    ("options", "message"),
    [
        ({"bits": 0}, "bits"),
        ({"bits": 9}, "bits"),
        ({"bits": 3.0}, "bits"),
        ({"bucket_size": 0}, "bucket_size: expected an integer from 1"),
        ({"norm": "l3"}, "norm: expected one of l2, linf, got 'l3'"),
        ({"clip": -1.0}, "clip: expected a positive"),
        ({"codec": "gpu"}, "codec: expected one of"),
        ({"fusion_elements": 0}, "fusion_elements"),
        ({"timeout": 0}, "timeout"),
        ({"schedule": "often"}, "schedule"),
        ({"seed": "one"}, "seed"),
        ({"name": ""}, "name"),
    ],
)
def test_an_option_out_of_range_says_what_is_valid(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        alq_hvd.Compression.alq(**options)
