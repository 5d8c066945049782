"""The type of a sum is planned, obeyed and seen: inside nodes, on the way left to Horovod, and in 4096 equal terms."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from alq_hvd.accumulation import plan_accumulator
from alq_hvd.accumulation.types import FP32, TYPES
from alq_hvd.codec.arrays import HostArrays
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from alq_hvd.engine.options import Options
from alq_hvd.errors import ConfigurationError
from alq_hvd.frontends.horovod import plain
from tests.support.emulated_device import EmulatedDevice
from tests.support.exchanging import aggregate, gradient
from tests.support.grid import grid
from tests.support.small_model import compressor
from tests.support.stand_in import reduce_gradients

ELEMENTS = 4096
HOST = HostArrays()


def on_nodes(**options: Any) -> tuple[list[np.ndarray], int]:
    """Return each rank's mean over two nodes of four ranks, and the bytes that rank 0 sent inside its node."""
    placed = grid(2, 4)

    def program(ranks: LoopbackCommunicator) -> tuple[np.ndarray, int]:
        own = placed(ranks)
        mean, _ = aggregate(own, ELEMENTS, exchange="hierarchical", bucket_size=64, **options)  # type: ignore[arg-type]
        return mean, sum(count for _, name, count in own.nodes.inside.started if name.endswith(".inside"))

    results = LoopbackWorld(8).run(program)
    return [mean for mean, _ in results], results[0][1]


def error(mean: np.ndarray) -> float:
    exact = np.mean([gradient(rank, ELEMENTS) for rank in range(8)], axis=0, dtype=np.float64)
    return float(((mean - exact) ** 2).sum() / (exact**2).sum())


def test_a_node_adds_up_in_the_planned_type_and_sends_half_the_bytes() -> None:
    share = ELEMENTS * 3 // 4
    for bits, accumulator, error_feedback, width in (
        *((3, "auto", False, 2), (8, "auto", False, 4), (3, "auto", True, 4)),  # a residual would not see the rounding
        *((3, "fp32", False, 4), (3, "fp16", False, 2), (8, "bf16", False, 2)),
    ):
        case = (bits, accumulator, error_feedback)
        means, sent = on_nodes(bits=bits, accumulator=accumulator, error_feedback=error_feedback)
        assert sent == width * share, case
        assert all(mean.tobytes() == means[0].tobytes() for mean in means), case


def test_what_the_planned_type_loses_is_not_seen_beside_the_quantiser() -> None:
    planned, exact = (error(on_nodes(bits=3, accumulator=name)[0][0]) for name in ("auto", "fp32"))
    assert planned == pytest.approx(exact, rel=0.02)


def test_a_type_the_plan_speaks_against_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="alq_hvd"):
        on_nodes(bits=8, accumulator="bf16")
        on_nodes(bits=3)
    refused, planned = (record for record in caplog.records if "inside a node" in record.message)  # of rank 0 alone
    assert refused.levelno == logging.WARNING
    assert "kept in bf16: bf16 would add rounding noise" in refused.message
    assert planned.levelno == logging.INFO
    assert "sums of 4 ranks inside a node are kept in bf16: the cheapest allowed" in planned.message


def test_every_memory_rounds_each_partial_sum_alike() -> None:
    arrays = CudaCodec(EmulatedDevice()).arrays
    terms = [gradient(rank, 301) for rank in range(40)]
    for kind in TYPES.values():
        records = [HOST.as_bytes(term, kind) for term in terms]
        there = [arrays.as_bytes(torch.from_numpy(term), kind) for term in terms]
        sums, sums_there = np.empty(301, np.float32), torch.empty(301)
        HOST.add_up([np.frombuffer(record.tobytes(), np.uint8) for record in records], sums, kind)  # read-only
        arrays.add_up(there, sums_there, kind)
        expected = torch.zeros(301, dtype=kind.torch)
        for term in terms:
            expected = expected + torch.from_numpy(term).to(kind.torch)
        assert all(np.array_equal(one, other.numpy()) for one, other in zip(records, there, strict=True)), kind.name
        assert np.array_equal(sums, expected.float().numpy()), kind.name
        assert np.array_equal(sums_there.numpy(), sums), kind.name
        nothing = np.empty(0, np.float32)
        HOST.add_up([HOST.as_bytes(nothing, kind)], nothing, kind)


def test_equal_terms_stop_to_count_at_a_power_of_two() -> None:
    for name, stalled in (("bf16", 256), ("fp16", 2048), ("fp32", 4096)):
        record, out = HOST.as_bytes(np.ones(3, np.float32), TYPES[name]), np.empty(3, np.float32)
        HOST.add_up([record] * 4096, out, TYPES[name])
        assert out.tolist() == [stalled] * 3, name


def test_damage_on_its_way_is_no_number_in_any_type() -> None:
    """``Staging.guarded`` sets all bits."""
    out = np.empty(2, np.float32)
    for kind in TYPES.values():
        HOST.add_up([np.full(2 * kind.bytes, 255, np.uint8)], out, kind)
        assert np.isnan(out).all(), kind.name


def left_to_horovod(dtype: torch.dtype, **options: Any) -> torch.dtype:
    """Return the type in which Horovod gets a gradient that is too small to compress; it comes back in its own."""

    def program(ranks: LoopbackCommunicator) -> torch.dtype:
        weight = torch.nn.Parameter(torch.zeros(8, dtype=dtype))
        weight.grad = torch.arange(8).to(dtype)
        compression = compressor(ranks, {"weight": weight}, **options)
        seen = []

        class Spy:
            def compress(self, tensor: torch.Tensor) -> Any:
                passed, context = compression.compress(tensor)
                seen.append(passed.dtype)
                return passed, context

            decompress = staticmethod(compression.decompress)

        reduced = reduce_gradients(ranks, Spy(), [("weight", weight.grad)])["weight"]
        assert reduced.dtype == dtype
        assert torch.equal(reduced, torch.arange(8).to(dtype))
        return seen[0]

    return LoopbackWorld(2).run(program)[0]


def test_what_is_left_to_horovod_is_added_up_in_a_type_that_horovod_has() -> None:
    half, brain, single, double = torch.float16, torch.bfloat16, torch.float32, torch.float64
    for dtype, accumulator, expected in (
        *((half, "auto", half), (brain, "auto", single), (single, "auto", single), (double, "auto", double)),
        *((half, "fp32", single), (single, "fp16", half), (brain, "fp16", half), (half, "bf16", single)),
    ):
        assert left_to_horovod(dtype, accumulator=accumulator) == expected, (dtype, accumulator)
    integers = torch.arange(3)
    assert plain.for_sum(integers, "fp16", 2, chief=True) is integers


def test_half_precision_gradients_are_widened_once_more_ranks_add_than_it_bears() -> None:
    tensor = torch.ones(3, dtype=torch.float16)
    for ranks, expected in ((2, torch.float16), (512, torch.float16), (513, torch.float32), (4096, torch.float32)):
        assert plain.for_sum(tensor, "auto", ranks, chief=True).dtype == expected, ranks
    assert plain.for_sum(tensor, "auto", 512, chief=True) is tensor


def test_half_precision_asked_for_beyond_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    plain._planned.cache_clear()
    for _ in range(3):
        assert plain.for_sum(torch.ones(3), "fp16", 4000, chief=True).dtype == torch.float16
        plain.for_sum(torch.ones(3), "fp16", 4000, chief=False)
    (record,) = caplog.records
    assert record.message == "Horovod adds up gradients in fp16: fp16 would stop growing over 4000 equal terms"


def test_the_types_are_those_of_the_option() -> None:
    with pytest.raises(ConfigurationError, match="accumulator: expected one of auto, bf16, fp16, fp32, got 'fp8'"):
        Options(method="alq", bits=3, accumulator="fp8")
    assert Options(method="alq", bits=3).shared()["accumulator"] == "auto"  # on which all ranks must agree
    assert FP32 is TYPES["fp32"]


def loss_of_4096_ranks(dtype: str, per_node: int = 4096, steps: int = 8) -> float:
    """Return the loss of a linear regression whose ranks' gradients are added up in ``dtype``, node by node.

    Every rank has 32 examples: its gradient is much like those of the others.
    """
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((4096, 32, 6), np.float32)
    targets = inputs @ np.arange(1, 7, dtype=np.float32) + generator.standard_normal((4096, 32), np.float32)

    def added(terms: np.ndarray) -> np.ndarray:
        out = np.empty(terms.shape[1], np.float32)
        HOST.add_up([HOST.as_bytes(term, TYPES[dtype]) for term in terms], out, TYPES[dtype])
        return out

    weights = np.zeros(6, np.float32)
    for _ in range(steps):
        gradients = np.einsum("rei,re->ri", inputs, inputs @ weights - targets) / 32
        total = added(np.stack([added(node) for node in np.split(gradients, 4096 // per_node)]))
        weights -= 0.4 * total / 4096
    return float(np.square(inputs @ weights - targets).mean())


def test_training_on_4096_ranks_stalls_in_bf16_and_is_that_of_fp32_as_planned() -> None:
    flat, on_nodes = plan_accumulator(4096), plan_accumulator(4096, local_size=64)
    assert (flat.dtype, on_nodes.dtype) == ("fp32", "bf16")
    exact, stalled = loss_of_4096_ranks("fp32"), loss_of_4096_ranks("bf16")
    assert stalled > 5 * exact
    assert loss_of_4096_ranks(on_nodes.dtype, per_node=64) == pytest.approx(exact, rel=0.01)
