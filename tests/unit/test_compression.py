"""The Horovod-facing shell, on loopback ranks and in Horovod's calling order."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
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
from alq_hvd.ledger import ring_bytes
from alq_hvd.probe import PROBE_BYTES
from alq_hvd.wire import RecordLayout
from tests.support.stand_in import adasum, average, reduce_gradients, total

SHAPES = {"conv": (16, 3, 7, 7), "bias": (16,), "linear": (130, 40), "head": (40, 33)}


def model() -> dict[str, torch.nn.Parameter]:
    return {name: torch.nn.Parameter(torch.zeros(shape)) for name, shape in SHAPES.items()}


def backward(parameters: dict[str, torch.nn.Parameter], rank: int, step: int, dtype: Any = torch.float32) -> None:
    generator = torch.Generator().manual_seed(1000 * step + rank)
    for parameter in parameters.values():
        parameter.grad = None
        parameter.data = parameter.data.to(dtype)
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(dtype)


def named_gradients(parameters: dict[str, torch.nn.Parameter]) -> list[tuple[str, Any]]:
    return [(name, parameter.grad) for name, parameter in parameters.items()]


def compressor(ranks: LoopbackCommunicator, parameters: dict[str, torch.nn.Parameter] | None, **options: Any) -> Any:
    method = options.pop("method", "alq")
    options = {"bits": 3, "bucket_size": 64, "min_elements": 100, "fusion_elements": 4000, **options}
    named = parameters.items() if parameters is not None else None
    return getattr(alq_hvd.Compression, method)(named_parameters=named, communicator=ranks, **options)


def exact(step: int, size: int, reduce: Any = average) -> dict[str, np.ndarray]:
    """Return what stock Horovod would return."""
    parameters = model()
    gradients: dict[str, list[np.ndarray]] = {name: [] for name in SHAPES}
    for rank in range(size):
        backward(parameters, rank, step)
        for name, gradient in named_gradients(parameters):
            gradients[name].append(gradient.numpy())
    return {name: reduce(parts) for name, parts in gradients.items()}


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("reduce", [average, total])
@pytest.mark.parametrize("method", ["alq", "qsgdinf"])
@pytest.mark.parametrize("names", [True, False])
def test_bucket_size_one_equals_fp32(size: int, reduce: Any, method: str, names: bool) -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        compression = compressor(ranks, parameters if names else None, method=method, bucket_size=1)
        for step in range(3):
            backward(parameters, ranks.rank, step)
            results = reduce_gradients(ranks, compression, named_gradients(parameters), reduce)
            for name, expected in exact(step, size, reduce).items():
                np.testing.assert_allclose(results[name].numpy(), expected, rtol=3e-7, atol=1e-7)

    LoopbackWorld(size).run(program)


@pytest.mark.parametrize("method", ["alq", "alq_n", "qsgd", "qsgdinf", "nuqsgd", "terngrad", "none"])
def test_every_rank_gets_the_same_bits_in_any_hook_order(method: str) -> None:
    def program(ranks: LoopbackCommunicator) -> list[bytes]:
        parameters = model()
        options = {"bits": 2} if method == "terngrad" else {}
        compression = compressor(ranks, parameters, method=method, schedule=[0, 2], **options)
        order = random.Random(ranks.rank)
        digests = []
        for step in range(4):
            backward(parameters, ranks.rank, step)
            gradients = named_gradients(parameters)
            order.shuffle(gradients)
            results = reduce_gradients(ranks, compression, gradients)
            digests.append(b"".join(results[name].numpy().tobytes() for name in SHAPES))
        return digests

    first, *others = LoopbackWorld(4).run(program)
    assert all(other == first for other in others)


@pytest.mark.parametrize("method", ["alq", "alqg_n", "amq", "optimal", "qsgd", "qsgdinf", "nuqsgd", "terngrad", "eden"])
@pytest.mark.parametrize("exchange", ["allgather", "two_shot"])
@pytest.mark.parametrize("codec", ["native", "reference"])
def test_rotated_methods_work_in_every_exchange(method: str, exchange: str, codec: str) -> None:
    """Every rank the same bits, near the exact mean, and a poisoned bucket that stays one bucket."""
    size = 3

    def program(ranks: LoopbackCommunicator) -> list[bytes]:
        parameters = model()
        options = {"bits": 2} if method == "terngrad" else {"bits": 6}
        compression = compressor(ranks, parameters, method=method, rotate=True, exchange=exchange, codec=codec,
                                 schedule=[0], bucket_size=256, measure_every=1, **options)  # fmt: skip
        digests = []
        for step in range(2):
            backward(parameters, ranks.rank, step)
            results = reduce_gradients(ranks, compression, named_gradients(parameters))
            digests.append(b"".join(results[name].numpy().tobytes() for name in SHAPES))
        if method in ("optimal", "eden", "alq"):  # adapted to normal coordinates, which these levels now fit
            for name, expected in exact(1, size).items():
                off = results[name].numpy() - expected
                assert np.linalg.norm(off) < 0.1 * np.linalg.norm(expected)
            assert compression.metrics()["relative_variance"] < 0.01
        return digests

    first, *others = LoopbackWorld(size).run(program)
    assert all(other == first for other in others)


def test_the_mean_over_many_seeds_is_the_exact_mean() -> None:
    size, draws = 2, 300

    def program(ranks: LoopbackCommunicator) -> np.ndarray:
        parameters = model()
        drawn = []
        for seed in range(draws):
            compression = compressor(ranks, parameters, seed=seed, name=f"c{seed}", method="qsgdinf")
            backward(parameters, ranks.rank, step=0)
            drawn.append(reduce_gradients(ranks, compression, named_gradients(parameters))["linear"].numpy())
        return np.stack(drawn)

    drawn = LoopbackWorld(size).run(program)[0]
    deviation = drawn.mean(axis=0) - exact(0, size)["linear"]
    expected_variance = np.mean([rounding_variance(rank) for rank in range(size)], axis=0) / size
    scores = deviation / np.sqrt(expected_variance / draws + 1e-14)
    assert abs(float(scores.mean())) < 4 / np.sqrt(scores.size)
    assert abs(float(np.square(scores).mean()) - 1) < 5 * np.sqrt(2 / scores.size)
    assert float(np.abs(scores).max()) < 6  # 5200 coordinates


def rounding_variance(rank: int) -> np.ndarray:
    """Return S^2 (l_{j+1} - r)(r - l_j) of each coordinate of "linear" at 3 bits, max norm, bucket 64."""
    parameters = model()
    backward(parameters, rank, step=0)
    values = parameters["linear"].grad.double().numpy().ravel()
    norms = np.repeat(np.maximum.reduceat(np.abs(values), np.arange(0, values.size, 64)), 64)[: values.size]
    position = (values / norms + 1) / 2 * 7  # eight equally spaced levels
    fraction = position - np.floor(position)
    return (norms**2 * (2 / 7) ** 2 * fraction * (1 - fraction)).reshape(130, 40)


def test_small_integer_sparse_and_foreign_tensors_are_left_to_horovod() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        compression = compressor(ranks, parameters)
        backward(parameters, ranks.rank, 0)
        sparse = torch.sparse_coo_tensor(torch.tensor([[1, 5]]), torch.ones(2), (2000,), check_invariants=True)
        for tensor in (parameters["bias"].grad, torch.arange(5000), torch.ones(5000), sparse, torch.ones(5000) > 0):
            compressed, context = compression.compress(tensor)
            assert compressed is tensor
            assert compression.decompress(compressed, context) is tensor
        assert compression.decompress(sparse, None) is sparse
        assert compression.metrics()["step"] == 0

    LoopbackWorld(2).run(program)


def test_a_parameter_with_sparse_gradients_leaves_the_plan_after_the_first_step() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        compression = compressor(ranks, parameters, bucket_size=1)
        for step in range(3):
            backward(parameters, ranks.rank, step)
            parameters["linear"].grad = parameters["linear"].grad.to_sparse()  # Horovod will not ask us about it
            dense = [(name, gradient) for name, gradient in named_gradients(parameters) if name != "linear"]
            results = reduce_gradients(ranks, compression, dense)
            for name in ("conv", "head"):
                np.testing.assert_allclose(results[name].numpy(), exact(step, 2)[name], rtol=3e-7, atol=1e-7)
        assert compression.metrics()["compressed_elements"] == 2352 + 1320

    LoopbackWorld(2).run(program)


def test_a_small_bfloat16_gradient_travels_as_float32_which_horovod_knows() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        compression = compressor(ranks, model())
        tensor = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
        compressed, context = compression.compress(tensor)
        assert compressed.dtype == torch.float32
        assert torch.equal(compression.decompress(compressed, context), tensor)

    LoopbackWorld(2).run(program)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_come_back_in_their_own_dtype_and_shape(dtype: Any) -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        compression = compressor(ranks, parameters, bits=8, method="qsgdinf")
        backward(parameters, ranks.rank, 0, dtype)
        result = reduce_gradients(ranks, compression, named_gradients(parameters))["conv"]
        assert result.dtype == dtype
        assert tuple(result.shape) == SHAPES["conv"]
        assert np.abs(result.double().numpy() - exact(0, 2)["conv"]).max() < 0.05

    LoopbackWorld(2).run(program)


def test_a_float8_gradient_is_refused() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        with pytest.raises(UnsupportedTensor, match=r"expected.*float32.*got torch.float8_e4m3fn"):
            compressor(ranks, None).compress(torch.zeros(5000).to(torch.float8_e4m3fn))

    LoopbackWorld(2).run(program)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_nan_on_one_rank_poisons_its_bucket_on_every_rank_and_nothing_else(poison: float) -> None:
    def program(ranks: LoopbackCommunicator) -> np.ndarray:
        parameters = model()
        compression = compressor(ranks, parameters, fusion_elements=1, bucket_size=64, schedule=[0])
        backward(parameters, ranks.rank, 0)
        if ranks.rank == 1:
            parameters["linear"].grad.view(-1)[200] = poison
        results = reduce_gradients(ranks, compression, named_gradients(parameters))
        assert torch.isfinite(results["conv"]).all()
        assert "NaN or infinity" in compression.metrics()["adaptations"][0]["reason"]
        return np.flatnonzero(np.isnan(results["linear"].numpy().ravel()))

    for touched in LoopbackWorld(3).run(program):
        assert touched.tolist() == list(range(192, 256))


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


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("bits", (3, 4)),
        ("bucket_size", (64, 65)),
        ("seed", (0, 1)),
        ("schedule", ([0], [0, 1])),
        ("clip", (None, 2.5)),
        ("rotate", (None, True)),
    ],
)
def test_ranks_with_different_options_are_named_with_both_values(option: str, values: tuple[Any, Any]) -> None:
    def program(ranks: LoopbackCommunicator) -> str:
        parameters = model()
        compression = compressor(ranks, parameters, **{option: values[ranks.rank == 2]})
        backward(parameters, ranks.rank, 0)
        with pytest.raises(ConfigurationMismatch, match=rf"^{option}: rank 0 has .*, rank 2 has ") as caught:
            compression.compress(parameters["conv"].grad)
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
            compression.compress(parameters["conv"].grad)

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


def test_levels_adapt_on_schedule_and_are_the_same_everywhere() -> None:
    def program(ranks: LoopbackCommunicator) -> str:
        parameters = model()
        compression = compressor(ranks, parameters, bucket_size=512, schedule=[1, 3])
        versions = []
        for step in range(5):
            backward(parameters, ranks.rank, step)
            reduce_gradients(ranks, compression, named_gradients(parameters))
            versions.append(compression.metrics()["levels_version"])
        assert versions == [0, 1, 1, 2, 2]
        metrics = compression.metrics()
        assert [entry["step"] for entry in metrics["adaptations"]] == [1, 3]
        for entry in metrics["adaptations"]:
            assert entry["objective_after"] < entry["objective_before"]
        assert metrics["levels"] == metrics["adaptations"][-1]["levels_after"]
        return json.dumps([entry["levels_after"] for entry in metrics["adaptations"]])

    assert len(set(LoopbackWorld(3).run(program))) == 1


def test_levels_can_be_fitted_to_extra_minibatches_as_the_paper_does() -> None:
    def program(ranks: LoopbackCommunicator) -> tuple[list[float], list[float], int]:
        def run(name: str, steps: int, samples: Any) -> dict[str, Any]:
            parameters = model()
            options = {"bucket_size": 512, "schedule": [1], "name": name, "sample_gradients": samples}
            compression = compressor(ranks, parameters, **options)
            for _ in range(steps):
                backward(parameters, ranks.rank, step=5)
                reduce_gradients(ranks, compression, named_gradients(parameters))
            metrics: dict[str, Any] = compression.metrics()
            return metrics

        calls = 0

        def spiky() -> Any:
            nonlocal calls
            for _ in range(3):
                calls += 1
                yield {name: torch.randn(shape).pow(5) for name, shape in SHAPES.items()}

        torch.manual_seed(0)
        own, sampled = run("own", 2, None), run("sampled", 2, spiky)
        assert own["levels_version"] == sampled["levels_version"] == 1
        return own["levels"], sampled["levels"], calls

    for own, sampled, calls in LoopbackWorld(2).run(program):
        assert calls == 3  # at the one scheduled step
        assert own != sampled


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


def test_a_method_that_does_not_adapt_gathers_nothing() -> None:
    def program(ranks: LoopbackCommunicator) -> dict[str, Any]:
        parameters = model()
        compression = compressor(ranks, parameters, method="qsgd", schedule=1)
        backward(parameters, ranks.rank, 0)
        reduce_gradients(ranks, compression, named_gradients(parameters))
        metrics: dict[str, Any] = compression.metrics()
        return metrics

    assert LoopbackWorld(2).run(program)[0]["adaptations"] == []


def test_metrics_count_what_was_sent() -> None:
    size = 4

    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        compression = compressor(ranks, parameters, method="qsgd", bucket_size=64)
        for step in range(2):
            backward(parameters, ranks.rank, step)
            reduce_gradients(ranks, compression, named_gradients(parameters))
        metrics = compression.metrics()
        config = compression.options.quantiser()
        groups = [2352, 5200, 1320]  # conv | linear | head, at most 4000 elements together
        records = sum(RecordLayout(elements, config).record_bytes for elements in groups)
        expected = (size - 1) * records + 3 * ring_bytes(size, PROBE_BYTES) + ring_bytes(size, 4 * 16)
        assert metrics["bytes_per_step"] == expected
        assert metrics["bytes_total"] == 2 * expected
        assert metrics["step"] == 2
        assert (metrics["compressed_elements"], metrics["passed_through_elements"]) == (sum(groups), 16)
        assert set(metrics["seconds"]) == {"encode", "exchange", "decode", "adapt"}
        assert 0.5 < metrics["relative_variance"] < 50
        json.dumps(metrics)

    LoopbackWorld(size).run(program)


def test_none_is_exact_and_counts_what_horovod_sends() -> None:
    size = 3

    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        compression = compressor(ranks, parameters, method="none")
        for step in range(2):
            backward(parameters, ranks.rank, step)
            results = reduce_gradients(ranks, compression, named_gradients(parameters))
            for name, expected in exact(step, size).items():
                assert np.array_equal(results[name].numpy(), expected)
        metrics = compression.metrics()
        elements = sum(parameter.numel() for parameter in parameters.values())
        each = sum(ring_bytes(size, 4 * parameter.numel()) for parameter in parameters.values())
        assert (metrics["step"], metrics["bytes_per_step"]) == (2, each)
        assert (metrics["compressed_elements"], metrics["passed_through_elements"]) == (0, elements)

    LoopbackWorld(size).run(program)


def test_a_model_of_small_gradients_only_still_counts_its_steps() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        compression = compressor(ranks, parameters, min_elements=10**6)
        for step in range(3):
            backward(parameters, ranks.rank, step)
            reduce_gradients(ranks, compression, named_gradients(parameters))
        assert compression.metrics()["step"] == 3

    LoopbackWorld(2).run(program)


def test_a_resumed_run_continues_bit_for_bit() -> None:
    def run(ranks: LoopbackCommunicator, first: int, last: int, state: dict[str, Any] | None) -> Any:
        parameters = model()
        compression = compressor(ranks, parameters, schedule=[0, 2, 4], name=f"run{first}-{last}-{state is None}")
        if state is not None:
            compression.load_state_dict(json.loads(json.dumps(state)))
        results = []
        for step in range(first, last):
            backward(parameters, ranks.rank, step)
            results.append(reduce_gradients(ranks, compression, named_gradients(parameters)))
        return results, compression.state_dict()

    def program(ranks: LoopbackCommunicator) -> None:
        whole, end = run(ranks, 0, 6, None)
        _, cut = run(ranks, 0, 3, None)
        rest, end_of_resumed = run(ranks, 3, 6, cut)
        for straight, resumed in zip(whole[3:], rest, strict=True):
            for name in SHAPES:
                assert torch.equal(straight[name], resumed[name])
        assert end_of_resumed == end

    LoopbackWorld(2).run(program)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"bits": 4}, "bits: expected 3, got a state with 4"),
        ({"method": "qsgd"}, "method: expected 'alq', got a state with 'qsgd'"),
        ({"levels": {}}, "expected the result of state_dict"),
        ({"state_version": 99}, "state_version"),
    ],
)
def test_a_state_of_something_else_is_refused(damage: dict[str, Any], message: str) -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        compression = compressor(ranks, model())
        with pytest.raises(StateError, match=message):
            compression.load_state_dict({**compression.state_dict(), **damage})

    LoopbackWorld(1).run(program)


def test_ranks_that_resume_from_different_states_are_stopped_before_a_wrong_number_is_returned() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        compression = compressor(ranks, parameters)
        if ranks.rank == 1:
            compression.load_state_dict({**compression.state_dict(), "step": 17})
        backward(parameters, ranks.rank, 0)
        with pytest.raises(CallOrderError, match="another rank is at another step"):
            reduce_gradients(ranks, compression, named_gradients(parameters))

    LoopbackWorld(2).run(program)


def test_a_world_of_one_sends_nothing_and_changes_nothing() -> None:
    def program(ranks: LoopbackCommunicator) -> None:
        parameters = model()
        compression = compressor(ranks, parameters)
        backward(parameters, ranks.rank, 0)
        results = reduce_gradients(ranks, compression, named_gradients(parameters))
        for name, gradient in named_gradients(parameters):
            assert torch.equal(results[name], gradient)
        assert compression.metrics()["bytes_total"] == 0

    LoopbackWorld(1).run(program)


@pytest.mark.parametrize(
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


def test_every_method_of_the_registry_has_a_constructor() -> None:
    from alq_hvd.methods import NAMES

    for name in NAMES:
        assert getattr(alq_hvd.Compression, name)().options.method == name
