"""ResNet-8 for small grey images: one residual block a stage, widths 16, 32, 64; 77 754 parameters."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Add two 3x3 convolutions to their input; a strided block widens the shortcut by a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.convolution2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map float32[n, inputs, h, w] to float32[n, outputs, h / stride, w / stride]."""
        inside = functional.relu(self.norm1(self.convolution1(images)))
        inside = self.norm2(self.convolution2(inside))
        return functional.relu(inside + self.shortcut(images))


class ResNet8(nn.Module):
    """Map images float32[n, 1, 28, 28] to the scores of 10 classes, float32[n, 10]."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.stages = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.classifier = nn.Linear(64, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the class scores of ``images``."""
        features: torch.Tensor = self.stages(self.stem(images))
        scores: torch.Tensor = self.classifier(features.mean(dim=(2, 3)))
        return scores
