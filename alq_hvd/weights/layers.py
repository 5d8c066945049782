"""One quantised weight of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from alq_hvd import backends
from alq_hvd.weights.parametrization import QuantizedWeight
from alq_hvd.weights.schemes import Scheme

Tensor: TypeAlias = Any
Module: TypeAlias = Any
torch = backends.torch()


@dataclass(frozen=True, slots=True)
class Layer:
    """Hold one quantised weight.

    Attributes:
        name: of the first module that has it.
        modules: all that have it; more than one where weights are tied.
        parametrization: what turns w into q.
    """

    name: str
    modules: tuple[Module, ...]
    parametrization: QuantizedWeight

    @property
    def weight(self) -> Tensor:
        """Return w, the parameter that the optimizer changes."""
        return self.modules[0].parametrizations.weight.original

    @property
    def scheme(self) -> Scheme:
        """Return how it is quantised."""
        return self.parametrization.scheme

    @property
    def scales(self) -> Tensor | None:
        """Return the scales in use."""
        return self.parametrization.scales

    def keep(self, scales: Tensor | None) -> None:
        """Take ``scales`` from now on."""
        self.parametrization.keep(scales)

    @property
    def quantized(self) -> Tensor:
        """Return q, without a gradient."""
        with torch.no_grad():
            return self.modules[0].weight
