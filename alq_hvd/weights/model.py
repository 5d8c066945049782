"""``quantize_weights``: a model whose layers compute with quantised weights, and the handle that cares for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

from alq_hvd import backends
from alq_hvd.communicator.base import Communicator
from alq_hvd.communicator.horovod import HorovodCommunicator
from alq_hvd.errors import ConfigurationError, StateError, WeightsError
from alq_hvd.quantiser.config import require_int
from alq_hvd.weights import schemes
from alq_hvd.weights.agreement import require_agreement
from alq_hvd.weights.curvature import OwnSecondMoments, curvature, has_second_moment, second_moment
from alq_hvd.weights.layers import Layer
from alq_hvd.weights.meta_estimator import Calibrated, MetaEstimator
from alq_hvd.weights.meta_nets import MetaGradient
from alq_hvd.weights.parametrization import QuantizedWeight, as_wide, require_weights
from alq_hvd.weights.schemes import Scheme
from alq_hvd.weights.targets import find_targets

Tensor: TypeAlias = Any
Module: TypeAlias = Any
Optimizer: TypeAlias = Any
torch = backends.torch()

STE = "ste"
META_SCHEMES = ("dorefa", "bwn")


def quantize_weights(
    model: Module,
    scheme: str = "laq",
    bits: int | None = None,
    *,
    skip: Sequence[str] = ("first", "last"),
    estimator: Literal["ste"] | MetaGradient = "ste",
    optimizer: Optimizer | None = None,
    communicator: Communicator | None = None,
    solve_every: int = 100,
    check_every: int = 100,
    clamp: bool | None = None,
) -> QuantizedWeights:
    """Let the linear and convolutional layers of ``model`` compute with quantised weights, in place.

    Each ``module.weight`` becomes a parametrisation (``torch.nn.utils.parametrize``): reading it gives q = Q(w), and
    the parameter, which optimizers hold already, stays the full weight w. Gradients are taken at q and applied to w.
    After each ``optimizer.step()`` the scales are solved for anew, with the optimizer's second moment as curvature.

    All ranks must agree on: the model's weights, every option, and the averaged gradients of every step.

    Args:
        model: a ``torch.nn.Module`` on its final device, in its final dtype.
        scheme: one of ``schemes.NAMES``.
        bits: width of a code; ``None`` for the scheme's usual one, 3 for ``laq``.
        skip: layers left as they are: ``"first"``, ``"last"``, names, or patterns of names.
        estimator: how gradients pass the rounding: ``"ste"``, straight through, or a ``MetaGradient``.
        optimizer: whose steps to follow, a wrapper such as ``hvd.DistributedOptimizer`` itself and not what it was made
            of; or call ``attach`` later. Without one, call ``refresh`` after the weights have changed.
        communicator: of all ranks, for checksums and MetaQuant's parameters; Horovod's when ``None`` and the optimizer
            is Horovod's, else there is one rank only.
        solve_every: steps after which scales are solved for from nothing; in between, two rounds from those of the step
            before. 1: the best scales at every step, at a price.
        check_every: steps between two checksums over the ranks; 0 never compares.
        clamp: keep w in [-1, 1]; by default for ``lab`` alone, as its authors do.

    Returns:
        The handle, which belongs into checkpoints, and which removes the quantisation again.

    Raises:
        ConfigurationError: for an option out of range, naming what is valid.
        UnsupportedTensor, WeightsError: for weights that can not be quantised.
    """
    chosen = schemes.scheme(scheme, bits)
    require_int("solve_every", solve_every, 1, 2**31)
    require_int("check_every", check_every, 0, 2**31)
    meta = estimator if isinstance(estimator, MetaGradient) else None
    if meta is None and estimator != STE:
        raise ConfigurationError(f"estimator: expected 'ste' or a MetaGradient, got {estimator!r}")
    if meta is not None and scheme not in META_SCHEMES:
        raise ConfigurationError(f"estimator: MetaGradient is defined for {' and '.join(META_SCHEMES)}, got {scheme}")
    if meta is not None and meta.kind == "multifc" and scheme == "bwn":
        raise ConfigurationError(
            "estimator: multifc multiplies the gradient by the weight that is rounded, which under bwn turns it round "
            "wherever a weight is negative: take fcgrad or lstmfc, or dorefa"
        )
    targets = find_targets(model, skip)
    for target in targets:
        require_weights(target.modules[0].weight, target.name)
    layers = []
    for target in targets:
        parametrization = QuantizedWeight(chosen, raw_gradient=meta is not None)
        for module in target.modules:
            torch.nn.utils.parametrize.register_parametrization(module, "weight", parametrization)
        layers.append(Layer(target.name, target.modules, parametrization))
    quantized = QuantizedWeights(
        layers, chosen, meta, communicator, solve_every, check_every, scheme == "lab" if clamp is None else clamp
    )
    if optimizer is not None:
        quantized.attach(optimizer)
    return quantized


class QuantizedWeights:
    """Keep the quantised weights of a model up to date, and know all about them; made by ``quantize_weights``."""

    def __init__(
        self,
        layers: Sequence[Layer],
        scheme: Scheme,
        meta: MetaGradient | None,
        communicator: Communicator | None,
        solve_every: int,
        check_every: int,
        clamp: bool,
    ) -> None:
        self.layers = tuple(layers)
        self.scheme = scheme
        self._communicator = communicator
        self._solve_every, self._check_every, self._clamp = solve_every, check_every, clamp
        self.steps = 0
        self._own: OwnSecondMoments | None = None
        self._optimizer: Optimizer | None = None
        self._hooks: list[Any] = []
        self._replaced = self._due = False
        self._meta: MetaEstimator | None = None
        if meta is not None:
            self._meta = MetaEstimator(meta, cast(Calibrated, scheme), self.layers, communicator)

    def attach(self, optimizer: Optimizer) -> None:
        """Follow the steps of ``optimizer`` from now on.

        Raises:
            ConfigurationError: when it has none of the quantised weights, or another one is followed already.
        """
        if self._optimizer is not None:
            raise ConfigurationError("attach: expected to be called once, got a second optimizer: quantise anew for it")
        held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
        missing = [layer.name for layer in self.layers if id(layer.weight) not in held]
        if len(missing) == len(self.layers) or (missing and self._meta is not None):
            raise ConfigurationError(
                f"optimizer: expected one that holds the weights of {', '.join(missing)}, got one without: make it "
                "from model.parameters(), and give the wrapped optimizer where there is a wrapper"
            )
        self._optimizer = optimizer
        if self._communicator is None and hasattr(optimizer, "skip_synchronize"):  # hvd.DistributedOptimizer
            self._communicator = HorovodCommunicator()
        if self._meta is not None:
            self._meta.communicator = self._communicator
        if self.scheme.loss_aware and not has_second_moment(optimizer):
            self._own = OwnSecondMoments()
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def refresh(self) -> None:
        """Solve for all scales anew, with the curvature there is: after others than the optimizer changed weights.

        Raises:
            WeightsError: when a weight or the curvature is NaN or infinite.
        """
        self._solve(anew=True)

    def verify(self) -> None:
        """Compare weights and scales over all ranks, bit for bit; a collective.

        Raises:
            WeightsMismatch: on every rank, naming the ranks and the layer that differ.
        """
        if self._communicator is not None and self._communicator.size > 1:
            tensors = {layer.name: (layer.weight, layer.parametrization.scales) for layer in self.layers}
            require_agreement(self._communicator, tensors, self.steps)

    def remove(self) -> None:
        """Make the quantised values the plain weights of the model, and follow the optimizer no longer."""
        values = {layer.name: layer.quantized.clone() for layer in self.layers}
        for layer in self.layers:
            weight = layer.weight
            for module in layer.modules:
                torch.nn.utils.parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
            with torch.no_grad():
                weight.copy_(values[layer.name])
        for hook in self._hooks:
            hook.remove()
        self._hooks, self.layers = [], ()

    def state_dict(self) -> dict[str, Any]:
        """Return what a training needs to go on bit for bit, beside the state of the model and of its optimizer."""
        state: dict[str, Any] = {"scheme": self.scheme.name, "bits": self.scheme.bits, "steps": self.steps}
        if self._own is not None:
            state["second_moments"] = dict(self._own.moments)
        if self._meta is not None:
            state["meta"] = self._meta.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, after the model and the optimizer have loaded theirs.

        Raises:
            StateError: when it belongs to another scheme or estimator.
        """
        own = (self.scheme.name, self.scheme.bits, self._meta is not None)
        got = (state.get("scheme"), state.get("bits"), "meta" in state)
        if own != got:
            raise StateError(
                f"expected the state of {own} (scheme, bits, MetaGradient), got {got}: use the same options"
            )
        self.steps = int(state["steps"])
        if self._own is not None:
            likes = {layer.name: as_wide(layer.weight.detach()) for layer in self.layers}
            self._own.moments = {
                name: moment.to(likes[name]).clone() for name, moment in state.get("second_moments", {}).items()
            }
        if self._meta is not None:
            self._meta.load_state_dict(state["meta"])
        self._replaced = self._due = False

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        # Horovod's step() calls hooks twice: as its own, before it waits for the averages, and as that of the class it
        # extends. Only when nothing is in flight any more are the gradients those of all ranks.
        self._due = True
        if self._meta is not None and not self._replaced and not getattr(optimizer, "_handles", None):
            self._meta.before_step(optimizer)
            self._replaced = True

    def _after_step(self, *_: Any) -> None:
        if not self._due:
            return
        self._due = self._replaced = False
        self.steps += 1
        if self._clamp:
            with torch.no_grad():
                for layer in self.layers:
                    layer.weight.clamp_(-1, 1)
        self._solve(anew=self.steps % self._solve_every == 0)
        if self._check_every and self.steps % self._check_every == 0:
            self.verify()

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _solve(self, anew: bool) -> None:
        finite = []
        for layer in self.layers:
            wide, bend = as_wide(layer.weight.detach()), self._curvature(layer)
            solve = self.scheme.solve if anew else self._improve(layer)
            layer.parametrization.keep(solve(wide, bend))
            finite.append(torch.isfinite(wide.sum() if bend is None else wide.sum() + bend.sum()))
        if not bool(torch.stack(finite).all()):  # the one place that waits for a device, once a step
            layer = next(layer for layer, fine in zip(self.layers, finite, strict=True) if not fine)
            raise WeightsError(
                f"{layer.name}: NaN or infinity in its weights or second moment after step {self.steps}: go back to a "
                "checkpoint, with a smaller learning rate"
            )

    def _improve(self, layer: Layer) -> Any:
        scales = layer.parametrization.scales
        return lambda weights, bend: self.scheme.improve(weights, bend, scales, self.steps)

    def _curvature(self, layer: Layer) -> Tensor | None:
        """Return D of a layer, ``None`` before the first step and for schemes that do not look at it."""
        if self._optimizer is None or not self.scheme.loss_aware:
            return None
        if self._own is not None:
            moment = self._own.update(layer.name, layer.weight.grad)
        else:
            moment = second_moment(self._optimizer.state.get(layer.weight, {}), layer.weight)
        return None if moment is None else curvature(as_wide(moment))
