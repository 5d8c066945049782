"""The parameters of a ResNet-50 as a list of shapes: what a real model hands over in one step."""

from __future__ import annotations

Shape = tuple[int, ...]
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
"""Blocks of a stage, and the channels inside its blocks."""
EXPANSION = 4
"""Channels behind a block over those inside it."""


def resnet50_shapes() -> list[Shape]:
    """Return the shapes of its 161 parameters, 25 557 032 numbers, in their order in the model.

    References:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1, for 1000 classes.
    """
    shapes = _convolution(3, 64, 7)
    channels = 64
    for blocks, inner in STAGES:
        for block in range(blocks):
            outer = EXPANSION * inner
            shapes += _convolution(channels, inner, 1) + _convolution(inner, inner, 3) + _convolution(inner, outer, 1)
            if block == 0:
                shapes += _convolution(channels, outer, 1)  # of the shortcut, which changes its shape here
            channels = outer
    return [*shapes, (1000, channels), (1000,)]


def _convolution(channels: int, filters: int, width: int) -> list[Shape]:
    """Return a convolution without bias, and the scale and shift of the batch normalisation behind it."""
    return [(filters, channels, width, width), (filters,), (filters,)]
