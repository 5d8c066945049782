"""``quantize_weights``: a model whose layers compute with quantised weights, and the handle that cares for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

from alq_hvd import backends
from alq_hvd.communicator.base import Communicator
from alq_hvd.errors import ConfigurationError, StateError
from alq_hvd.quantiser.config import require_int
from alq_hvd.weights import schemes
from alq_hvd.weights.layers import Layer
from alq_hvd.weights.meta_estimator import Calibrated, MetaEstimator
from alq_hvd.weights.meta_nets import MetaGradient
from alq_hvd.weights.parametrization import QuantizedWeight, require_weights
from alq_hvd.weights.schemes import Scheme
from alq_hvd.weights.targets import find_targets
from alq_hvd.weights.upkeep import Upkeep

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
    After each ``optimizer.step()`` the scales are solved for again, with the optimizer's second moment as curvature.

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
        UnsupportedTensor, WeightsError: for weights that cannot be quantised.
    """
    chosen = schemes.scheme(scheme, bits)
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
    require_int("solve_every", solve_every, 1, 2**31)  # before the model is touched
    require_int("check_every", check_every, 0, 2**31)
    targets = find_targets(model, skip)
    for target in targets:
        require_weights(target.modules[0].weight, target.name)
    layers = []
    for target in targets:
        parametrization = QuantizedWeight(chosen, raw_gradient=meta is not None)
        for module in target.modules:
            torch.nn.utils.parametrize.register_parametrization(module, "weight", parametrization)
        layers.append(Layer(target.name, target.modules, parametrization))
    upkeep = Upkeep(layers, communicator, solve_every, check_every, clamp)
    quantized = QuantizedWeights(upkeep, layers, chosen, meta)
    if optimizer is not None:
        quantized.attach(optimizer)
    return quantized


class QuantizedWeights:
    """Keep the quantised weights of a model up to date, and know all about them; made by ``quantize_weights``."""

    def __init__(self, upkeep: Upkeep, layers: Sequence[Layer], scheme: Scheme, meta: MetaGradient | None) -> None:
        self.layers = tuple(layers)
        self.scheme = scheme
        self._upkeep = upkeep
        self._optimizer: Optimizer | None = None
        self._hooks: list[Any] = []
        self._replaced = self._due = False
        self._meta: MetaEstimator | None = None
        if meta is not None:
            self._meta = MetaEstimator(meta, cast(Calibrated, scheme), self.layers)

    @property
    def steps(self) -> int:
        """Return how many steps of the optimizer were followed."""
        return self._upkeep.steps

    def attach(self, optimizer: Optimizer) -> None:
        """Follow the steps of ``optimizer`` from now on.

        Raises:
            ConfigurationError: when it has none of the quantised weights, or another one is followed already.
        """
        if self._optimizer is not None:
            raise ConfigurationError("attach: expected one call, got a second: quantise again for it")
        held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
        missing = [layer.name for layer in self.layers if id(layer.weight) not in held]
        if len(missing) == len(self.layers) or (missing and self._meta is not None):
            raise ConfigurationError(
                f"optimizer: expected one that holds the weights of {', '.join(missing)}, got one without: make it "
                "from model.parameters(), and give the wrapped optimizer where there is a wrapper"
            )
        self._optimizer = optimizer
        self._upkeep.follow(optimizer)
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def refresh(self) -> None:
        """Solve for all scales again, with the present curvature, after code other than the optimizer changed weights.

        Raises:
            WeightsError: when a weight or the curvature is NaN or infinite.
        """
        self._upkeep.solve(anew=True)

    def verify(self) -> None:
        """Compare weights and scales over all ranks, bit for bit; a collective.

        Raises:
            WeightsMismatch: on every rank, naming the ranks and the layer that differ.
        """
        self._upkeep.verify()

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
        state = {"scheme": self.scheme.name, "bits": self.scheme.bits, **self._upkeep.state_dict()}
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
        self._upkeep.load_state_dict(state)
        if self._meta is not None:
            self._meta.load_state_dict(state["meta"])
        self._replaced = self._due = False

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        # Horovod's step() calls hooks twice: as its own, before it waits for the averages, and as that of the class it
        # extends. Only when nothing is in flight any more are the gradients those of all ranks.
        self._due = True
        if self._meta is not None and not self._replaced and not getattr(optimizer, "_handles", None):
            self._meta.before_step(optimizer, self._upkeep.communicator)
            self._replaced = True

    def _after_step(self, *_: Any) -> None:
        if self._due:
            self._due = self._replaced = False
            self._upkeep.after_step()
