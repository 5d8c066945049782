"""ResNet-8 is the network the documents speak of."""

from __future__ import annotations

import torch
from images.model import ResNet8


def test_it_has_77754_parameters() -> None:
    assert sum(parameter.numel() for parameter in ResNet8().parameters()) == 77_754


def test_it_maps_images_to_scores_and_every_parameter_gets_a_gradient() -> None:
    model = ResNet8()
    scores = model(torch.randn(4, 1, 28, 28))
    assert scores.shape == (4, 10)
    scores.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_the_same_seed_gives_the_same_start() -> None:
    torch.manual_seed(3)
    first = ResNet8().state_dict()
    torch.manual_seed(3)
    assert all(torch.equal(first[name], value) for name, value in ResNet8().state_dict().items())
