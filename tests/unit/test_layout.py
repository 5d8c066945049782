"""Fusion groups, and how gradients are recognised without names from Horovod."""

from __future__ import annotations

import pytest
import torch

from alq_hvd.engine.layout import FusionLayout, Gradient, gradients_of, usual_fusion
from alq_hvd.errors import CallOrderError, ConfigurationError
from alq_hvd.frontends.horovod.call_order_keys import CallOrderKeys
from alq_hvd.frontends.horovod.identity_keys import IdentityKeys


def parameters(*sizes: int) -> list[tuple[str, torch.nn.Parameter]]:
    return [(f"p{index}", torch.nn.Parameter(torch.zeros(size))) for index, size in enumerate(sizes)]


def test_groups_are_filled_in_model_order_up_to_their_size() -> None:
    sizes = {"a": 60, "b": 30, "c": 20, "d": 500, "e": 1}
    gradients = [Gradient(index, name, size) for index, (name, size) in enumerate(sizes.items())]
    layout = FusionLayout.build(gradients, fusion_elements=100)
    assert [(slot.group, slot.start, slot.stop) for slot in layout.slots] == [
        (0, 0, 60),
        (0, 60, 90),
        (1, 0, 20),
        (2, 0, 500),
        (3, 0, 1),
    ]
    assert layout.group_elements == (90, 20, 500, 1)
    assert layout.group_slots == (2, 1, 1, 1)


def test_a_group_stays_in_one_place() -> None:
    tensors = [("a", torch.zeros(2, 3)), ("b", torch.zeros(4)), ("c", torch.zeros(5))]
    gradients = gradients_of(tensors, lambda tensor: None if tensor.ndim > 1 else "cuda:0")
    assert gradients[0] == Gradient(0, "a", 6, (2, 3))
    layout = FusionLayout.build(gradients, fusion_elements=100)
    assert layout.group_elements == (6, 9)
    assert layout.group_places == (None, "cuda:0")


def test_groups_grow_with_the_number_of_ranks_where_nobody_has_measured() -> None:
    assert [usual_fusion(ranks) for ranks in (2, 4, 8, 32, 1000)] == [2**19, 2**19, 2**20, 2**22, 2**22]


def test_no_gradients_make_no_groups() -> None:
    assert FusionLayout.build([], fusion_elements=100).group_elements == ()


def test_identity_finds_a_gradient_in_any_order_although_gradients_are_new_objects_each_step() -> None:
    named = parameters(5, 7, 5, 9)
    keys = IdentityKeys(named, min_elements=0)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [2, 0, 3, 1]):
        for _, parameter in named:
            parameter.grad = torch.ones_like(parameter)
        found = [keys.locate(named[index][1].grad) for index in order]
        assert [slot.index for slot in found if slot] == order


def test_identity_leaves_small_frozen_integer_and_foreign_tensors_alone() -> None:
    named = parameters(5, 50, 50)
    named[2][1].requires_grad = False
    named.append(("steps", torch.nn.Parameter(torch.zeros(50, dtype=torch.int64), requires_grad=False)))
    keys = IdentityKeys(named, min_elements=10)
    for _, parameter in named[:2]:
        parameter.grad = torch.ones_like(parameter)
    assert keys.gradients == (Gradient(0, "p1", 50, (50,)),)
    assert keys.locate(named[0][1].grad) is None
    assert keys.locate(torch.ones(50)) is None
    assert keys.locate(named[1][1].grad) is not None


def test_doubled_names_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="p0 twice"):
        IdentityKeys(parameters(3) + parameters(3), min_elements=0)


def test_call_order_is_learnt_in_the_first_step() -> None:
    keys = CallOrderKeys(min_elements=2)
    tensors = [torch.zeros(6), torch.zeros(1), torch.zeros(6)]
    assert [keys.locate(tensor) is None for tensor in tensors] == [False, True, False]
    assert keys.gradients is None
    learned = keys.end_of_calls()
    keys.end_step()
    assert [gradient.elements for gradient in learned] == [6, 6]
    assert [keys.locate(tensor) for tensor in tensors] == [learned[0], None, learned[1]]


@pytest.mark.parametrize("second_step", [[7, 6], [6, 6, 6]])
def test_another_call_order_in_a_later_step_is_refused_with_the_remedy(second_step: list[int]) -> None:
    keys = CallOrderKeys(min_elements=0)
    for size in (6, 6):
        keys.locate(torch.zeros(size))
    keys.end_of_calls()
    keys.end_step()
    with pytest.raises(CallOrderError, match=r"expected .*named_parameters=model.named_parameters\(\)"):
        for size in second_step:
            keys.locate(torch.zeros(size))
