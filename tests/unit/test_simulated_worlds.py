"""Many ranks in one process: variance falls as 1/n, and two shots of 4 and 8 bits are as good as a 4-bit all-gather."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld
from tests.support.exchanging import aggregate, gradient


def simulate(size: int, elements: int, *, steps: int = 1, signal: float = 1.0, **options: Any) -> tuple[float, int]:
    """Return E|mean - exact mean|^2 / |exact mean|^2 over coordinates at the last step, and one rank's bytes of it."""

    def program(ranks: LoopbackCommunicator) -> tuple[bytes, int]:
        mean, aggregator = aggregate(ranks, elements, steps=steps, signal=signal, **options)
        return (mean.tobytes() if ranks.rank in (0, size - 1) else b""), aggregator.ledger.bytes_last_step

    outcomes = LoopbackWorld(size).run(program)
    assert outcomes[0][0] == outcomes[-1][0]
    mean = np.frombuffer(outcomes[0][0], dtype=np.float32).astype(np.float64)
    exact = np.mean(
        [gradient(rank, elements, step=steps - 1, signal=signal) for rank in range(size)], axis=0, dtype=np.float64
    )
    return float(((mean - exact) ** 2).sum() / (exact**2).sum()), max(sent for _, sent in outcomes)


@pytest.mark.parametrize("method", ["qsgdinf", "alq"])
def test_the_variance_of_the_mean_falls_as_one_over_the_number_of_ranks(method: str) -> None:
    """All ranks hold nearly the same gradient: shared random numbers would keep the error where it is."""
    options: dict[str, Any] = {
        "method": method,
        "bits": 3,
        "bucket_size": 512,
        "exchange": "allgather",
        "signal": 30.0,
        "correlated": False,
    }
    errors = {size: simulate(size, 2**15, **options)[0] for size in (4, 16, 64)}
    assert errors[4] / errors[16] == pytest.approx(4, rel=0.15)
    assert errors[16] / errors[64] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("exchange", ["allgather", "two_shot"])
def test_ranks_that_round_together_have_less_error_than_ranks_that_do_not(exchange: str) -> None:
    """Of unrelated gradients a little more than half of it is left; where they are alike it falls as 1/n^2."""
    options: dict[str, Any] = {"method": "qsgdinf", "bits": (2, 8), "bucket_size": 512, "exchange": exchange}
    if exchange == "allgather":
        options["bits"] = 2
    for size, signal, least, most in ((4, 0.0, 0.45, 0.65), (16, 0.0, 0.45, 0.6), (16, 3000.0, 0.05, 0.08)):
        world = {**options, "signal": signal}
        together, alone = (simulate(size, 2**15, **world, correlated=how)[0] for how in (True, False))
        assert least < together / alone < most, (size, signal)


@pytest.mark.parametrize("method", ["qsgdinf", "optimal"])
def test_at_32_ranks_4_then_8_bits_are_as_good_as_an_allgather_at_4_for_a_tenth_of_the_bytes(method: str) -> None:
    """Half of each gradient is common to all ranks, which is harder than noise: the sum's error counts for more."""
    options: dict[str, Any] = {"method": method, "bucket_size": 512, "schedule": [0], "steps": 2, "signal": 1.0}
    one_shot, many = simulate(32, 2**19, bits=4, exchange="allgather", **options)
    two_shot, few = simulate(32, 2**19, bits=(4, 8), exchange="two_shot", **options)
    assert two_shot <= 1.2 * one_shot
    assert few <= 0.10 * many


def test_256_ranks_in_one_process() -> None:
    """More ranks than buckets: only 128 of them have something to add up."""
    error, sent = simulate(256, 128 * 64, bits=(4, 8), bucket_size=64, exchange="two_shot", signal=30.0)
    assert error < 1e-3
    assert sent < 256 * 2 * 512
