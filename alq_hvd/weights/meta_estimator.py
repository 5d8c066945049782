"""MetaQuant in data-parallel training: what happens around an optimizer's step, and what is kept until the next.

With averaged gradients g = dL/dq, at the end of step t:

1. phi's gradient is -alpha dL/dw_look through the net, of this rank's own loss; its exact mean over the ranks moves
   phi.
2. u = K(w) M(g, w~), with the new phi and the weights w of this step, takes the place of g.
3. The optimizer makes its step with u: its direction for u is the paper's r, and w - alpha r are the look-ahead
   weights.

The next forward pass is at these weights. In the paper 2 and 3 are the first lines of step t + 1; here they are the
last of step t, so that ``optimizer.step()`` does what its name says. The sequence of weights is the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from alq_hvd import backends
from alq_hvd.communicator.base import Communicator
from alq_hvd.errors import StateError
from alq_hvd.weights.layers import Layer
from alq_hvd.weights.meta_nets import Hidden, MetaGradient
from alq_hvd.weights.parametrization import as_wide

Tensor: TypeAlias = Any
torch = backends.torch()

MANY_WEIGHTS = 1_000_000


class Calibrated(Protocol):
    """A scheme that MetaQuant is defined for: ``dorefa`` or ``bwn``."""

    def latent(self, weights: Tensor) -> Tensor:
        """Return w~, what is rounded."""
        ...

    def calibration(self, weights: Tensor) -> Tensor:
        """Return K(w), d w~ / d w as the authors define it."""
        ...


@dataclass(slots=True)
class _Stored:
    """Keep what one layer's next gradient of phi needs.

    Attributes:
        gradient, weight: g and w of the step before.
        hidden: what the net remembered when it saw them; ``next_hidden``: after that.
        update: u with its graph back to phi.
        alpha: learning rate with which the optimizer applied it.
    """

    gradient: Tensor
    weight: Tensor
    hidden: Hidden
    next_hidden: Hidden
    update: Tensor
    alpha: float


class MetaEstimator:
    """Hold phi, its optimizer and what the layers store between two steps."""

    def __init__(self, options: MetaGradient, scheme: Calibrated, layers: Sequence[Layer]) -> None:
        self._options, self._scheme, self._layers = options, scheme, layers
        weights = sum(layer.weight.numel() for layer in layers)
        if options.state_floats() and weights > MANY_WEIGHTS:
            item = as_wide(layers[0].weight).element_size()
            held = options.state_floats() * item * weights
            warnings.warn(
                f"lstmfc keeps {options.state_floats()} numbers for each of {weights:,} weights, {held / 2**30:.1f} "
                "GiB, and several times as much while it trains: take fcgrad, or a smaller hidden",
                stacklevel=4,
            )
        wide = as_wide(layers[0].weight.detach())
        self.net = options.build(wide.dtype, wide.device)
        self._adam = torch.optim.Adam(self.net.parameters(), lr=options.learning_rate)
        self._stored: dict[str, _Stored] = {}

    def before_step(self, optimizer: Any, communicator: Communicator | None) -> None:
        """Replace the averaged gradients of the quantised weights by what the net makes of them; see the module.

        Args:
            optimizer: about to make its step.
            communicator: of all ranks, for the mean of phi's gradients; ``None`` where there is one rank only.
        """
        rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
        if self._stored:
            self._learn(communicator)
        for layer in self._layers:
            if layer.weight.grad is not None:
                self._replace(layer, float(rates[id(layer.weight)]))

    def _learn(self, communicator: Communicator | None) -> None:
        """Move phi along the mean over the ranks of its gradient."""
        updates, slopes = [], []
        for layer in self._layers:
            look, stored = layer.parametrization.look, self._stored.get(layer.name)
            if stored is not None and look is not None and look.grad is not None:
                updates.append(stored.update)
                slopes.append(-stored.alpha * look.grad.to(stored.update.dtype))
        parameters = list(self.net.parameters())
        gradients = torch.autograd.grad(updates, parameters, slopes, allow_unused=True) if updates else [None]
        zeros = [torch.zeros_like(parameter) for parameter in parameters]
        filled = [zero if own is None else own for zero, own in zip(zeros, [*gradients, *zeros], strict=False)]
        for parameter, gradient in zip(parameters, _mean(filled, communicator), strict=True):
            parameter.grad = gradient
        self._adam.step()

    def _replace(self, layer: Layer, alpha: float) -> None:
        weight, before = layer.weight, self._stored.get(layer.name)
        hidden = None if before is None or before.next_hidden is None else before.next_hidden
        wide = as_wide(weight.detach()).clone()
        stored = self._evaluate(as_wide(weight.grad.detach()).clone(), wide, hidden, alpha)
        weight.grad.copy_(stored.update.detach())
        self._stored[layer.name] = stored
        # Shares the memory of w, so it has the value that the optimizer is about to give w.
        layer.parametrization.look = weight.detach().requires_grad_()

    def _evaluate(self, gradient: Tensor, weight: Tensor, hidden: Hidden, alpha: float) -> _Stored:
        with torch.enable_grad():
            made, state = self.net(gradient, self._scheme.latent(weight), hidden)
            update = self._scheme.calibration(weight) * made
        next_hidden = None if state is None else tuple(part.detach() for part in state)
        return _Stored(gradient, weight, hidden, next_hidden, update, alpha)

    def state_dict(self) -> dict[str, Any]:
        """Return phi, the state of its optimizer, and what the layers store."""
        stored = {
            name: {"gradient": kept.gradient, "weight": kept.weight, "hidden": kept.hidden, "alpha": kept.alpha}
            for name, kept in self._stored.items()
        }
        return {"net": self.net.state_dict(), "adam": self._adam.state_dict(), "stored": stored}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; the weights must have been loaded before.

        Raises:
            StateError: when it is of another net or other layers.
        """
        layers = {layer.name: layer for layer in self._layers}
        if not state["stored"].keys() <= layers.keys():
            raise StateError(
                f"expected layers {', '.join(layers)}, got {', '.join(state['stored'])}: load the same model"
            )
        try:
            self.net.load_state_dict(state["net"])
        except RuntimeError as error:
            raise StateError(f"expected the parameters of {self._options}: {error}") from error
        self._adam.load_state_dict(state["adam"])
        self._stored = {}
        for name, kept in state["stored"].items():
            layer = layers[name]
            like = as_wide(layer.weight.detach())
            hidden = None if kept["hidden"] is None else tuple(part.to(like) for part in kept["hidden"])
            self._stored[name] = self._evaluate(
                kept["gradient"].to(like), kept["weight"].to(like), hidden, float(kept["alpha"])
            )
            layer.parametrization.look = layer.weight.detach().requires_grad_()


def _mean(gradients: Sequence[Tensor], communicator: Communicator | None) -> Sequence[Tensor]:
    """Return the mean over all ranks, in rank order and float64: never quantised, the same bits everywhere."""
    if communicator is None or communicator.size == 1:
        return gradients
    own = torch.cat([gradient.flatten() for gradient in gradients]).double().cpu().numpy()
    received = communicator.allgather(own.view(np.uint8), "alq_hvd.weights.phi").wait()
    mean = np.mean([raw.view(np.float64) for raw in received], axis=0)
    parts = torch.from_numpy(mean).split([gradient.numel() for gradient in gradients])
    return [part.view_as(like).to(like) for part, like in zip(parts, gradients, strict=True)]
