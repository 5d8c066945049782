"""What the MNIST example composes."""

from __future__ import annotations

from typing import Any


class Compose:
    """Represent a composition of transforms, and for each of its parts: the images are ready."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments


ToTensor = Normalize = Compose
