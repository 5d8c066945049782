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
from alq_hvd.exchange.ledger import ring_bytes
from alq_hvd.frontends.horovod.probe import probe_bytes
from alq_hvd.quantiser.record import RecordLayout
from tests.support.cases import each
from tests.support.small_model import SHAPES, backward, compressor, exact, model, named_gradients
from tests.support.stand_in import average, reduce_gradients, total


@each("size", [2, 3, 4])
@each("reduce", [average, total])
@each("method", ["alq", "qsgdinf"])
@each("names", [True, False])
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


@each("method", ["alq", "alq_n", "qsgd", "qsgdinf", "nuqsgd", "terngrad", "none"])
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


@each("method", ["alq", "alqg_n", "amq", "optimal", "qsgd", "qsgdinf", "nuqsgd", "terngrad", "eden"])
@each("exchange", ["allgather", "two_shot"])
@each("codec", ["native", "reference"])
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


@pytest.mark.parametrize("correlated", [True, False])
def test_the_mean_over_many_seeds_is_the_exact_mean(correlated: bool) -> None:
    size, draws = 2, 300

    def program(ranks: LoopbackCommunicator) -> np.ndarray:
        parameters = model()
        drawn = []
        for seed in range(draws):
            options = {"method": "qsgdinf", "zero_level": False, "correlated": correlated}
            compression = compressor(ranks, parameters, seed=seed, name=f"c{seed}", **options)
            backward(parameters, ranks.rank, step=0)
            drawn.append(reduce_gradients(ranks, compression, named_gradients(parameters))["linear"].numpy())
        return np.stack(drawn)

    drawn = LoopbackWorld(size).run(program)[0]
    deviation = drawn.mean(axis=0) - exact(0, size)["linear"]
    expected_variance = np.mean([rounding_variance(rank) for rank in range(size)], axis=0) / size
    scores = deviation / np.sqrt(expected_variance / draws + 1e-14)
    assert abs(float(scores.mean())) < 4 / np.sqrt(scores.size)
    left = float(np.square(scores).mean())
    if correlated:  # as little of it as two ranks can save
        assert 0.5 < left < 0.8
    else:
        assert abs(left - 1) < 5 * np.sqrt(2 / scores.size)
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
        expected = (size - 1) * records + 3 * ring_bytes(size, probe_bytes(size)) + ring_bytes(size, 4 * 16)
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


def test_every_method_of_the_registry_has_a_constructor() -> None:
    from alq_hvd.quantiser.methods import NAMES

    for name in NAMES:
        assert getattr(alq_hvd.Compression, name)().options.method == name
