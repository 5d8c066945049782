"""What the reduced probe proves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alq_hvd.errors import CallOrderError, ConfigurationMismatch, LevelsMismatch, UnsupportedReduction
from alq_hvd.frontends.horovod.probe import Probe
from tests.support.stand_in import adasum

SIZES = [1, 2, 3, 4, 7, 32, 256]


def probes(size: int) -> list[Probe]:
    return [
        Probe(rank=rank, size=size, configuration=0xFFFF, levels=0xA51, tensor=513, step=70_000) for rank in range(size)
    ]


def contributions(all_probes: list[Probe]) -> np.ndarray:
    return np.array([probe.values() for probe in all_probes], dtype=np.float32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("predivide", [1.0, 2.0, 3.0, 7.3])
def test_an_average_gives_the_factor_one_whatever_the_predivide_factor(size: int, predivide: float) -> None:
    scaled = contributions(probes(size)) * np.float32(1 / predivide)
    reduced = scaled.sum(axis=0, dtype=np.float32) * np.float32(predivide / size)
    assert [probe.check(reduced.tolist(), "w") for probe in probes(size)] == [1.0] * size


@pytest.mark.parametrize("size", SIZES)
def test_a_sum_gives_the_number_of_ranks(size: int) -> None:
    reduced = contributions(probes(size)).sum(axis=0, dtype=np.float32)
    assert probes(size)[0].check(reduced.tolist(), "w") == size


def test_another_linear_factor_is_kept() -> None:
    reduced = contributions(probes(4)).sum(axis=0) * 0.5
    assert probes(4)[0].check(reduced.tolist(), "w") == 2.0


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_adasum_is_refused_on_every_rank(size: int) -> None:
    reduced = adasum(list(contributions(probes(size)).astype(np.float64)))
    for probe in probes(size):
        with pytest.raises(UnsupportedReduction, match=r"op=Average or op=Sum.*Adasum"):
            probe.check(list(reduced), "w")


@pytest.mark.parametrize("operation", [np.min, np.max, np.prod])
def test_min_max_and_product_are_refused(operation: object) -> None:
    reduced = operation(contributions(probes(4)), axis=0)  # type: ignore[operator]
    with pytest.raises(UnsupportedReduction):
        probes(4)[0].check(reduced.tolist(), "w")


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("configuration", 0xFFFE, ConfigurationMismatch),
        ("levels", 0xA52, LevelsMismatch),
        ("tensor", 514, CallOrderError),
        ("tensor", 1, CallOrderError),
        ("step", 70_001, CallOrderError),
    ],
)
@pytest.mark.parametrize("size", [2, 3, 64, 256])
def test_one_rank_that_differs_is_seen_by_every_rank(field: str, value: int, error: type, size: int) -> None:
    mixed = probes(size)
    mixed[-1] = replace(mixed[-1], **{field: value})
    reduced = contributions(mixed).sum(axis=0, dtype=np.float32) * np.float32(1 / size)
    for probe in mixed:
        with pytest.raises(error, match=f"rank {probe.rank}, step {probe.step}, gradient w"):
            probe.check(reduced.tolist(), "w")
