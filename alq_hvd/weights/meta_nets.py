"""The small nets of MetaQuant: what they make of a gradient and the weight behind it, each coordinate alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol, TypeAlias, get_args

from alq_hvd import backends
from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.config import require_int

Tensor: TypeAlias = Any
Hidden: TypeAlias = Any
"""What a net remembers of one tensor of weights from step to step: two float[d, hidden], or ``None``."""
torch = backends.torch()
_Module: Any = torch.nn.Module

Kind = Literal["fcgrad", "multifc", "lstmfc"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class MetaGradient:
    """Learn the gradient through the quantiser: ``quantize_weights(..., estimator=MetaGradient("fcgrad"))``.

    Attributes:
        kind: ``"fcgrad"``, M = net(g); ``"multifc"``, M = g net(w~), for ``dorefa`` only; ``"lstmfc"``, M = g net(w~)
            with an LSTM, which keeps 2 * hidden floats for every weight, and about ten times as many while it trains.
        hidden: width of the net.
        layers: of ``fcgrad`` and ``multifc``; two of width 100 are 200 parameters.
        activation: ``None`` or ``"tanh"`` between their layers. Without one, and without biases, the net multiplies
            by a single learned number, and is evaluated as that.
        bias: give their layers biases.
        learning_rate: gamma, of Adam on the net's parameters.
        seed: of the net's first parameters, the same on every rank.

    References:
        Chen, Wang, Pan, "MetaQuant: Learning to Quantize by Learning to Penetrate Non-differentiable Quantization",
        NeurIPS 2019.
    """

    kind: Kind
    hidden: int = 100
    layers: int = 2
    activation: Literal["tanh"] | None = None
    bias: bool = False
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigurationError(f"kind: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        require_int("hidden", self.hidden, 1, 65536)
        require_int("layers", self.layers, 2, 16)
        require_int("seed", self.seed, 0, 2**63 - 1)
        if self.activation not in (None, "tanh"):
            raise ConfigurationError(f"activation: expected None or 'tanh', got {self.activation!r}")
        if not isinstance(self.learning_rate, (int, float)) or not 0 < self.learning_rate < float("inf"):
            raise ConfigurationError(f"learning_rate: expected a positive number, got {self.learning_rate!r}")

    def build(self, dtype: Any, device: Any) -> MetaNet:
        """Return the net with its first parameters, which depend on ``seed`` alone."""
        generator = torch.Generator().manual_seed(self.seed)
        net: MetaNet = (LstmNet if self.kind == "lstmfc" else DenseNet)(self, generator)
        return net.to(dtype=dtype, device=device)

    def state_floats(self) -> int:
        """Return how many floats the net keeps for every weight."""
        return 2 * self.hidden if self.kind == "lstmfc" else 0


class MetaNet(Protocol):
    """A ``torch.nn.Module`` that turns gradients into gradients."""

    def __call__(self, gradient: Tensor, latent: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """Return M, in the shape of ``gradient``, and the next ``hidden``."""
        ...

    def to(self, *, dtype: Any, device: Any) -> MetaNet:
        """Move the net."""
        ...

    def parameters(self) -> Any:
        """Return the parameters phi."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the parameters by name."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take parameters by name."""
        ...


class DenseNet(_Module):  # type: ignore[misc]  # torch is imported in one place, as Any
    """FCGrad or MultiFC."""

    def __init__(self, options: MetaGradient, generator: Any) -> None:
        super().__init__()
        self.options = options
        widths = [1, *[options.hidden] * (options.layers - 1), 1]
        self.layers = torch.nn.ModuleList(
            _drawn(torch.nn.Linear, *pair, bias=options.bias, reach=pair[0] ** -0.5, generator=generator)
            for pair in pairwise(widths)
        )
        # A net that begins with a negative factor would climb at first: which sign it has is chance.
        with torch.no_grad():
            self.layers[-1].weight.mul_(torch.where(self._factor() < 0, -1.0, 1.0))

    def forward(self, gradient: Tensor, latent: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """Return net(gradient), or gradient * net(latent)."""
        if self.options.kind == "fcgrad":
            return self._apply_net(gradient), None
        return gradient * self._apply_net(latent), None

    def _apply_net(self, values: Tensor) -> Tensor:
        if self.options.activation is None and not self.options.bias:
            return self._factor() * values  # the same function, without float[d, hidden] in between
        column = values.reshape(-1, 1)
        for layer in self.layers[:-1]:
            column = layer(column)
            if self.options.activation is not None:
                column = column.tanh()
        return self.layers[-1](column).view_as(values)

    def _factor(self) -> Tensor:
        """Return the product of all weight matrices, a 0-d tensor."""
        product = self.layers[0].weight
        for layer in self.layers[1:]:
            product = layer.weight @ product
        return product[0, 0]


class LstmNet(_Module):  # type: ignore[misc]  # torch is imported in one place, as Any
    """LSTMFC: one LSTM layer over the steps, its input the weight alone, and a linear layer with bias."""

    def __init__(self, options: MetaGradient, generator: Any) -> None:
        super().__init__()
        reach = options.hidden**-0.5
        self.cell = _drawn(torch.nn.LSTMCell, 1, options.hidden, reach=reach, generator=generator)
        self.linear = _drawn(torch.nn.Linear, options.hidden, 1, reach=reach, generator=generator)

    def forward(self, gradient: Tensor, latent: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """Return gradient * linear(lstm(latent)), and the LSTM's next state."""
        state = self.cell(latent.reshape(-1, 1), hidden)
        return gradient * self.linear(state[0]).view_as(gradient), state


def _drawn(kind: Any, *sizes: int, reach: float, generator: Any, **options: Any) -> Any:
    """Return a module with parameters uniform in +-reach, PyTorch's own start, drawn from ``generator``."""
    module = torch.nn.utils.skip_init(kind, *sizes, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-reach, reach, generator=generator)
    return module
