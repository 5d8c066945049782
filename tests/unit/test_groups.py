"""How gradients meet in a fusion group, on the host and on a device, and how the sums come back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from alq_hvd.codec.choice import choose_codec
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.codec.device_arrays import Parts
from alq_hvd.engine.groups import DeviceGroup, FusionGroup, HostGroup
from alq_hvd.engine.layout import FusionLayout, Gradient, Slot
from tests.support.cases import each
from tests.support.emulated_device import EmulatedDevice

SIZES = (6, 1, 0, 8)


def layout() -> tuple[Slot, ...]:
    return FusionLayout.build([Gradient(index, f"p{index}", size) for index, size in enumerate(SIZES)], 100).slots


def group_of(kind: str) -> FusionGroup:
    return HostGroup(choose_codec("auto"), sum(SIZES)) if kind == "host" else DeviceGroup(CudaCodec(EmulatedDevice()))


def gradients(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    flat = [torch.arange(size, dtype=torch.float32) + 10 * size for size in SIZES]
    return [flat[0].reshape(2, 3).to(dtype), flat[1].reshape(()).to(dtype), flat[2].to(dtype), flat[3].to(dtype)]


def flat(values: Any) -> torch.Tensor:
    """Return the values of a group as one float32 tensor."""
    return torch.cat([part.float() for part in values.tensors]) if isinstance(values, Parts) else torch.tensor(values)


def overwrite(values: Any, sums: torch.Tensor) -> None:
    """Write what decoding would write."""
    if isinstance(values, np.ndarray):
        values[:] = sums.numpy()
        return
    for part, wanted in zip(values.tensors, sums.split([len(part) for part in values.tensors]), strict=True):
        part.copy_(wanted)


@each("kind", ["host", "device"])
@each("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_sums_are_written_over_the_gradients_in_their_dtype(kind: str, dtype: torch.dtype) -> None:
    group, given = group_of(kind), gradients(dtype)
    for _ in range(2):  # a group is used again in the next step
        for slot, gradient in reversed(list(zip(layout(), given, strict=True))):
            group.put(slot, gradient)
        values = group.values()
        assert len(values) == sum(SIZES)
        assert torch.equal(flat(values), torch.cat([gradient.reshape(-1).float() for gradient in given]))
        sums = torch.arange(sum(SIZES), dtype=torch.float32) / 4
        overwrite(values, sums)
        for slot, gradient in zip(layout(), given, strict=True):
            assert group.take(slot) is gradient
            assert torch.equal(gradient.reshape(-1), sums[slot.start : slot.stop].to(dtype))
        group.clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_device_group_reads_and_writes_gradients_where_they_lie(dtype: torch.dtype) -> None:
    group, given = group_of("device"), gradients(dtype)
    for slot, gradient in zip(layout(), given, strict=True):
        group.put(slot, gradient)
    places = [part.data_ptr() for part in group.values().tensors]
    assert places == [gradient.data_ptr() for gradient in given]


def test_dtypes_that_differ_meet_in_float32() -> None:
    group, given = group_of("device"), gradients()
    given[3] = given[3].bfloat16()
    for slot, gradient in zip(layout(), given, strict=True):
        group.put(slot, gradient)
    values = group.values()
    assert {part.dtype for part in values.tensors} == {torch.float32}
    overwrite(values, torch.full((sum(SIZES),), 1 / 3))
    for slot, gradient in zip(layout(), given, strict=True):
        assert group.take(slot) is gradient
        assert torch.equal(gradient, torch.full(gradient.shape, 1 / 3, dtype=gradient.dtype))


@pytest.mark.parametrize("kind", ["host", "device"])
def test_a_gradient_that_is_not_contiguous_gets_a_new_tensor(kind: str) -> None:
    group, given = group_of(kind), gradients()
    given[0] = given[0].t()
    for slot, gradient in zip(layout(), given, strict=True):
        group.put(slot, gradient)
    values = group.values()
    assert flat(values)[:6].tolist() == [60, 63, 61, 64, 62, 65]
    overwrite(values, torch.arange(sum(SIZES), dtype=torch.float32))
    result = group.take(layout()[0])
    assert result.tolist() == [[0, 1], [2, 3], [4, 5]]
    overwrite(values, torch.zeros(sum(SIZES)))
    assert result.sum() == 15  # its own memory, not the group's


@pytest.mark.parametrize("kind", ["host", "device"])
def test_a_gradient_that_never_came_counts_as_zeros(kind: str) -> None:
    group, given = group_of(kind), gradients()
    for slot, gradient in zip(layout(), given, strict=True):
        if slot.index == 3:
            group.put_zeros(slot)
        else:
            group.put(slot, gradient)
    assert flat(group.values())[-8:].tolist() == [0.0] * 8
