"""Plain calls on loopback ranks: means and sums of any tensors, levels that follow, one error for every mistake."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import alq_hvd
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.errors import ConfigurationError, ConfigurationMismatch, StateError, UnsupportedTensor

RANKS = 3
SIZES = {"large": (300, 20), "matrix": (64, 65), "small": (7,)}


def tensors(rank: int, call: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 * call + rank)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SIZES.items()}


def mean(call: int = 0) -> dict[str, torch.Tensor]:
    parts = [tensors(rank, call) for rank in range(RANKS)]
    return {name: torch.stack([part[name] for part in parts]).mean(0) for name in SIZES}


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.float() - expected).square().sum() / expected.square().sum())


def on_ranks(program: Any, size: int = RANKS) -> list[Any]:
    return LoopbackWorld(size, timeout=20).run(program)


def test_tensors_become_means_within_the_error_of_the_quantiser_and_equal_on_all_ranks() -> None:
    for exchange in ("allgather", "two_shot"):

        def program(ranks: LoopbackCommunicator, exchange: str = exchange) -> Any:
            average = alq_hvd.Allreduce(ranks, bits=8, min_elements=100, exchange=exchange)
            given = tensors(ranks.rank)
            average(given)
            return given, average.metrics()

        results = on_ranks(program)
        first, metrics = results[0]
        for name, expected in mean().items():
            assert error(first[name], expected) < (5e-3 if first[name].numel() > 100 else 1e-12), (exchange, name)
            assert all(torch.equal(given[name], first[name]) for given, _ in results), (exchange, name)
        assert metrics["exchange"] == exchange
        assert (metrics["compressed_elements"], metrics["passed_through_elements"]) == (300 * 20 + 64 * 65, 7)


def test_levels_follow_from_call_to_call() -> None:
    def program(ranks: LoopbackCommunicator) -> Any:
        average = alq_hvd.Allreduce(ranks, method="optimal", bits=6, schedule=[0], min_elements=100)
        errors = []
        for call in range(2):
            given = tensors(ranks.rank, call)
            average(given)
            errors.append(error(given["large"], mean(call)["large"]))
        return errors, average.metrics()

    (before, after), metrics = on_ranks(program)[0]
    assert after < 0.5 * before
    assert (metrics["step"], metrics["levels_version"]) == (2, 1)


def test_the_mean_of_many_calls_is_the_mean() -> None:
    def program(ranks: LoopbackCommunicator) -> Any:
        average = alq_hvd.Allreduce(ranks, bits=2, min_elements=100, schedule=[0])
        total = torch.zeros(SIZES["matrix"])
        for _ in range(200):
            given = tensors(ranks.rank)
            average(given)
            total += given["matrix"] / 200
        return total, given["matrix"]

    total, once = on_ranks(program)[0]
    assert error(total, mean()["matrix"]) < 0.02 * error(once, mean()["matrix"])


def test_a_sum_is_the_mean_times_the_ranks() -> None:
    def program(ranks: LoopbackCommunicator) -> Any:
        outcomes = []
        for op in ("mean", "sum"):
            given = tensors(ranks.rank)
            alq_hvd.Allreduce(ranks, bits=4, min_elements=100)(given, op=op)
            outcomes.append(given)
        return outcomes

    averaged, added = on_ranks(program)[0]
    for name in SIZES:
        torch.testing.assert_close(added[name], averaged[name] * RANKS)


def test_arrays_parameters_strides_and_other_floats_are_overwritten_all_alike() -> None:
    def program(ranks: LoopbackCommunicator) -> Any:
        given = tensors(ranks.rank)["large"]
        forms = {
            "array": given.numpy().copy(),
            "float64": given.double(),
            "bfloat16": given.bfloat16(),
            "float16": given.half(),
            "transposed": given.t().contiguous().t(),
            "parameter": torch.nn.Parameter(given.clone()),
        }
        addresses = {name: id(form) for name, form in forms.items()}
        alq_hvd.Allreduce(ranks, bits=8)(forms)
        assert addresses == {name: id(form) for name, form in forms.items()}
        return forms

    for name, form in on_ranks(program)[0].items():
        reduced = torch.from_numpy(form) if isinstance(form, np.ndarray) else form.detach()
        assert error(reduced, mean()["large"]) < 5e-3, name


def test_a_call_may_bring_other_tensors_than_the_last_one() -> None:
    def program(ranks: LoopbackCommunicator) -> Any:
        average = alq_hvd.Allreduce(ranks, bits=8, min_elements=100)
        for names in (("large", "matrix"), ("matrix",), ("small",), ("large", "matrix")):
            given = {name: tensors(ranks.rank)[name] for name in names}
            average(list(given.values()))
            for name in names:
                assert error(given[name], mean()[name]) < 5e-3
        return average.metrics()["step"]

    assert on_ranks(program) == [4] * RANKS


def test_the_function_keeps_what_it_has_learnt() -> None:
    def program(ranks: LoopbackCommunicator) -> Any:
        errors = []
        for call in range(2):
            given = tensors(ranks.rank, call)
            alq_hvd.allreduce_(given, ranks, bits=6, schedule=[0], min_elements=100)
            errors.append(error(given["large"], mean(call)["large"]))
        return errors

    before, after = on_ranks(program)[0]
    assert after < 0.5 * before


def test_a_resumed_program_goes_on_bit_for_bit() -> None:
    def program(ranks: LoopbackCommunicator) -> Any:
        options: dict[str, Any] = {"bits": 3, "schedule": 1, "min_elements": 100, "error_feedback": True}
        first = alq_hvd.Allreduce(ranks, **options)
        for call in range(2):
            first(tensors(ranks.rank, call))
        resumed = alq_hvd.Allreduce(ranks, **options)
        resumed.load_state_dict(first.state_dict())
        one, other = tensors(ranks.rank, 2), tensors(ranks.rank, 2)
        first(one)
        resumed(other)
        with pytest.raises(StateError, match="bits"):
            alq_hvd.Allreduce(ranks, bits=4, error_feedback=True).load_state_dict(first.state_dict())
        return all(torch.equal(one[name], other[name]) for name in SIZES)

    assert on_ranks(program) == [True] * RANKS


def test_one_rank_is_its_own_mean() -> None:
    def program(ranks: LoopbackCommunicator) -> Any:
        average, given = alq_hvd.Allreduce(ranks, bits=2), tensors(0)
        average(given)
        return all(torch.equal(given[name], expected) for name, expected in tensors(0).items()), average.metrics()

    ((equal, metrics),) = on_ranks(program, size=1)
    assert equal
    assert (metrics["step"], metrics["bytes_total"]) == (1, 0)


def test_method_none_is_exact() -> None:
    def program(ranks: LoopbackCommunicator) -> Any:
        given = tensors(ranks.rank)
        alq_hvd.Allreduce(ranks, method="none")(given)
        return given

    for name, expected in mean().items():
        torch.testing.assert_close(on_ranks(program)[0][name], expected)


def test_every_rank_hears_of_a_difference_and_none_waits() -> None:
    odd: dict[str, Any] = {
        "number of tensors": lambda rank: [torch.ones(2000)] * (1 + (rank == 1)),
        r"tensors\[0\]": lambda rank: [torch.ones(2000 + (rank == 1))],
        "problem": lambda rank: [torch.ones(2000, dtype=torch.int64 if rank == 1 else torch.float32)],
    }
    for message, make in odd.items():

        def program(ranks: LoopbackCommunicator, message: str = message, make: Any = make) -> None:
            average = alq_hvd.Allreduce(ranks, bits=4)
            average([torch.ones(2000)])
            with pytest.raises(ConfigurationMismatch, match=message):
                average(make(ranks.rank))
            average([torch.ones(2000)])  # and all go on together

        on_ranks(program)


def test_ranks_with_other_options_or_another_past_are_found_out() -> None:
    def options(ranks: LoopbackCommunicator) -> None:
        with pytest.raises(ConfigurationMismatch, match="bits: rank 0 has 4, rank 2 has 3"):
            alq_hvd.Allreduce(ranks, bits=3 if ranks.rank == 2 else 4)([torch.ones(2000)])

    def past(ranks: LoopbackCommunicator) -> None:
        average = alq_hvd.Allreduce(ranks, bits=4)
        average([torch.ones(2000)])
        if ranks.rank == 1:
            average = alq_hvd.Allreduce(ranks, bits=4)
        with pytest.raises(ConfigurationMismatch, match="completed calls: rank 0 has 1, rank 1 has 0"):
            average([torch.ones(2000)])

    def ops(ranks: LoopbackCommunicator) -> None:
        with pytest.raises(ConfigurationMismatch, match="op: rank 0 has mean, rank 1 has sum"):
            alq_hvd.Allreduce(ranks, bits=4)([torch.ones(2000)], op="sum" if ranks.rank == 1 else "mean")

    for program in (options, past, ops):
        on_ranks(program)


def test_what_can_not_be_averaged_is_refused() -> None:
    frozen = np.ones(2000, dtype=np.float32)
    frozen.flags.writeable = False
    cases: dict[str, Any] = {
        "int64": torch.ones(2000, dtype=torch.int64),
        "complex64": torch.ones(2000, dtype=torch.complex64),
        "sparse": torch.eye(50).to_sparse(),
        "read-only": frozen,
        "got list": [1.0] * 2000,
    }
    for message, tensor in cases.items():

        def program(ranks: LoopbackCommunicator, message: str = message, tensor: Any = tensor) -> None:
            with pytest.raises(UnsupportedTensor, match=message):
                alq_hvd.Allreduce(ranks, bits=4)({"odd": tensor})

        on_ranks(program, size=2)
    with pytest.raises(ConfigurationError, match=r"write \[tensor\]"):
        alq_hvd.allreduce_(torch.ones(3), LoopbackCommunicator(LoopbackWorld(1), 0))
    with pytest.raises(ConfigurationError, match="init_process_group"):
        alq_hvd.allreduce_([torch.ones(3)])
    with pytest.raises(TypeError, match="bitz"):
        alq_hvd.allreduce_([torch.ones(3)], LoopbackCommunicator(LoopbackWorld(1), 0), bitz=3)
