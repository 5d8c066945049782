"""What the reduced probe proves."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from alq_hvd.engine.transport import Attendance
from alq_hvd.errors import CallOrderError, ConfigurationMismatch, LevelsMismatch, UnsupportedReduction
from alq_hvd.frontends.horovod.probe import Probe
from tests.support.cases import each
from tests.support.stand_in import adasum

SIZES = [1, 2, 3, 4, 7, 32, 63, 64, 65, 128, 256, 768, 1000, 4096]


def probes(size: int) -> list[Probe]:
    return [
        Probe(rank=rank, size=size, configuration=0xFFFF, levels=0xA51, tensor=513, step=70_000) for rank in range(size)
    ]


def contributions(all_probes: list[Probe]) -> np.ndarray:
    """Return the numbers of all ranks, in the type in which Horovod adds them."""
    return np.array([probe.tensor_of_values().numpy() for probe in all_probes])


def added_one_by_one(numbers: np.ndarray) -> np.ndarray:
    """Add as a ring does, without the pairwise order in which NumPy would."""
    return np.cumsum(numbers, axis=0)[-1]


@each("size", SIZES)
def test_an_average_gives_the_factor_one_whatever_the_predivide_factor(size: int) -> None:
    for predivide in (1.0, 2.0, 3.0, 7.3, 100.1):
        own = contributions(probes(size))
        reduced = added_one_by_one(own * own.dtype.type(1 / predivide)) * own.dtype.type(predivide / size)
        for probe in probes(size)[:: max(1, size // 8)]:
            probe.require_same_ranks(reduced.tolist(), "w", partial(Attendance, size))
            assert probe.check(reduced.tolist(), "w", Attendance(size)) == 1.0, predivide


def test_the_usual_average_is_recognised_at_once_and_nothing_else_is() -> None:
    for size in (2, 3, 4, 32):
        all_probes = probes(size)
        average = contributions(all_probes).mean(axis=0).tolist()
        if size & (size - 1) == 0:
            assert all(probe.is_met(average) for probe in all_probes)
        wrong = [average[:8], [2 * value for value in average], *(
            [value + (place == at) for place, value in enumerate(average)] for at in range(len(average))
        )]  # fmt: skip
        assert not any(probe.is_met(values) for probe in all_probes for values in wrong), size
        gone = contributions(all_probes[1:]).sum(axis=0)
        for scale in (1.0, 1 / size, 1 / (size - 1)):
            assert not all_probes[1].is_met((gone * scale).tolist()), (size, scale)


def test_a_sum_gives_the_number_of_ranks() -> None:
    for size in SIZES:
        reduced = contributions(probes(size)).sum(axis=0)
        probes(size)[0].require_same_ranks(reduced.tolist(), "w", partial(Attendance, size))
        assert probes(size)[0].check(reduced.tolist(), "w", Attendance(size)) == size


def test_another_linear_factor_is_kept() -> None:
    reduced = contributions(probes(4)).sum(axis=0) * 0.5
    assert probes(4)[0].check(reduced.tolist(), "w", Attendance(4)) == 2.0


def test_ranks_that_have_joined_count_as_zeros() -> None:
    """After ``hvd.join()`` Horovod adds zeros for a rank, and still divides by the number of all."""
    for size, gone in ((2, [1]), (4, [0]), (4, [1, 3]), (7, [0, 2, 5])):
        present = [probe for probe in probes(size) if probe.rank not in gone]
        attendance = Attendance(len(present), leads=0 not in gone)
        total = contributions(present).sum(axis=0)
        for probe in present:
            for reduced, factor in ((total, size), (total / size, 1.0)):
                probe.require_same_ranks(reduced.tolist(), "w", lambda told=attendance: told)
                assert probe.check(reduced.tolist(), "w", attendance) == factor, (size, gone)


@each("size", [2, 4, 8, 16])
def test_adasum_is_refused_on_every_rank(size: int) -> None:
    reduced = adasum(list(contributions(probes(size))))
    for probe in probes(size):
        with pytest.raises(UnsupportedReduction, match=r"op=Average or op=Sum.*Adasum"):
            probe.check(list(reduced), "w", Attendance(size))


@pytest.mark.parametrize("operation", [np.min, np.max, np.prod])
def test_min_max_and_product_are_refused(operation: object) -> None:
    reduced = operation(contributions(probes(4)), axis=0)  # type: ignore[operator]
    with pytest.raises(UnsupportedReduction):
        probes(4)[0].check(reduced.tolist(), "w", Attendance(4))


def test_an_average_over_another_process_set_is_named_before_anything_waits() -> None:
    told = contributions(probes(4))
    for ranks in ([0, 1], [0, 2, 3]):
        reduced = told[ranks].mean(axis=0).tolist()
        with pytest.raises(ConfigurationMismatch, match=f"over {len(ranks)} ranks.*made for 4.*same process_set"):
            probes(4)[ranks[0]].require_same_ranks(reduced, "w", lambda: Attendance(4))
    with pytest.raises(UnsupportedReduction, match="same process_set"):  # rank 0 is in the other one
        probes(4)[2].require_same_ranks(told[[2, 3]].mean(axis=0).tolist(), "w", lambda: Attendance(4))


@each(
    ("field", "value", "error"),
    [
        ("configuration", 0xFFFE, ConfigurationMismatch),
        ("levels", 0xA52, LevelsMismatch),
        ("tensor", 514, CallOrderError),
        ("tensor", 1, CallOrderError),
        ("step", 70_001, CallOrderError),
    ],
)
def test_one_rank_that_differs_is_seen_by_every_rank(field: str, value: int, error: type) -> None:
    for size in (2, 3, 64, 256):
        mixed = probes(size)
        mixed[-1] = replace(mixed[-1], **{field: value})
        reduced = contributions(mixed).sum(axis=0) / size
        for probe in mixed:
            with pytest.raises(error, match=f"rank {probe.rank}, step {probe.step}, gradient w"):
                probe.check(reduced.tolist(), "w", Attendance(size))
