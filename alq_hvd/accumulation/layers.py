"""Linear layers and convolutions whose sums are kept in narrow accumulators, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alq_hvd import backends
from alq_hvd.accumulation.adder import FLOAT32, Adder
from alq_hvd.accumulation.emulated_torch import matmul, rounded
from alq_hvd.errors import ConfigurationError, UnsupportedTensor
from alq_hvd.quantiser.config import require_int

_torch = backends.torch()
_functional = _torch.nn.functional
Tensor = Any
Module = Any
Watch = Callable[[str, Tensor, Tensor], None]
"""Is told of each matrix product: its pass, float32[m, k] and float32[k, n]."""


@dataclass(frozen=True, slots=True)
class Adders:
    """Say in which accumulators the three matrix products of a layer are summed, and what is multiplied.

    Attributes:
        forward: of outputs.
        backward: of the gradients of inputs.
        gradient: of the gradients of weights.
        operands: mantissa bits to which both factors of every product are rounded first; ``None`` leaves them as they
            are. 2 stands for the 8-bit floats (1, 5, 2) of the published setting, whose products have 5 bits.
    """

    forward: Adder = FLOAT32
    backward: Adder = FLOAT32
    gradient: Adder = FLOAT32
    operands: int | None = None

    def __post_init__(self) -> None:
        if self.operands is not None:
            require_int("operands", self.operands, 1, 23)

    def rounded(self, values: Tensor) -> Tensor:
        """Return ``values`` as they enter a product."""
        return values if self.operands is None else rounded(values, self.operands)


def emulate_accumulators(
    model: Module, adders: Adders | Mapping[str, Adders], skip: Collection[str] = ()
) -> dict[str, Module]:
    """Let the convolutions and linear layers of ``model`` add up in ``adders``; return them by name.

    They stay the objects they are, with their weights, hooks and names: only their arithmetic changes, which is float32
    without autocast. Biases are added in float32. Calling it again changes the accumulators; ``Adders()`` for all gives
    float32 back.

    Args:
        model: with layers of torch's own classes.
        adders: for all layers, or by the name of each; layers that are not named are left alone.
        skip: names of layers to leave alone.

    Raises:
        ConfigurationError: a name that no layer has, or no layer at all.
        UnsupportedTensor: a grouped convolution, or one that is not padded with zeros.
    """
    layers = {name: layer for name, layer in model.named_modules() if type(layer) in (*_EMULATED, *_EMULATED.values())}
    for option, names in (("adders", adders if isinstance(adders, Mapping) else ()), ("skip", skip)):
        unknown = sorted(set(names) - layers.keys())
        if unknown:
            raise ConfigurationError(f"{option}: expected names of {', '.join(layers) or 'layers'}, got {unknown[0]!r}")
    chosen = {
        name: layer
        for name, layer in layers.items()
        if name not in skip and (not isinstance(adders, Mapping) or name in adders)
    }
    if not chosen:
        raise ConfigurationError("model: expected a Conv2d or Linear layer to emulate, got none")
    for name, layer in chosen.items():
        _require_emulable(name, layer)
    for name, layer in chosen.items():
        layer.__class__ = _EMULATED.get(type(layer), type(layer))
        layer.adders = adders[name] if isinstance(adders, Mapping) else adders
        layer.watch = None
    return chosen


@dataclass(frozen=True, slots=True)
class _Place:
    """Say where a convolution's kernel is put: pairs for height and width."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def positions(self, size: int, kernel: int, axis: int) -> int:
        """Return how many outputs there are along ``axis``."""
        reach = self.dilation[axis] * (kernel - 1)
        return (size + 2 * self.padding[axis] - reach - 1) // self.stride[axis] + 1

    def patches(self, images: Tensor, kernel: tuple[int, int]) -> Tensor:
        """Return what the kernel sees, float32[n * positions, channels * area]."""
        columns = _functional.unfold(images, kernel, self.dilation, self.padding, self.stride)
        return columns.transpose(1, 2).reshape(-1, columns.shape[1])


class _Convolution(_torch.autograd.Function):  # type: ignore[misc,name-defined]
    @staticmethod
    def forward(
        context: Any, images: Tensor, weight: Tensor, place: _Place, adders: Adders, watch: Watch | None
    ) -> Tensor:
        images, weight = adders.rounded(images), adders.rounded(weight)
        patches = place.patches(images, weight.shape[2:])
        context.save_for_backward(patches, weight)
        context.shape, context.place, context.adders, context.watch = images.shape, place, adders, watch
        products = _multiply("forward", patches, weight.flatten(1).t(), adders.forward, watch)
        sides = [place.positions(images.shape[2 + axis], weight.shape[2 + axis], axis) for axis in (0, 1)]
        return products.reshape(len(images), *sides, len(weight)).permute(0, 3, 1, 2).contiguous()

    @staticmethod
    def backward(context: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        (patches, weight), place, adders = context.saved_tensors, context.place, context.adders
        above = adders.rounded(above)
        below = of_weight = None
        if context.needs_input_grad[0]:
            # The transposed convolution as a plain one: its sums then have all channels * area terms.
            count, channels, *sides = context.shape
            spread = _spread(above, sides, weight, place)
            around = _Place(dilation=place.dilation).patches(spread, weight.shape[2:])
            turned = weight.flip(2, 3).transpose(0, 1).flatten(1)
            products = _multiply("backward", around, turned.t(), adders.backward, context.watch)
            below = products.reshape(count, *sides, channels).permute(0, 3, 1, 2)
        if context.needs_input_grad[1]:
            rows = above.transpose(0, 1).flatten(1)
            of_weight = _multiply("gradient", rows, patches, adders.gradient, context.watch).reshape(weight.shape)
        return below, of_weight, None, None, None


def _multiply(which: str, left: Tensor, right: Tensor, adder: Adder, watch: Watch | None) -> Tensor:
    if watch is not None:
        watch(which, left, right)
    return matmul(left, right, adder)


def _spread(above: Tensor, sides: Sequence[int], weight: Tensor, place: _Place) -> Tensor:
    """Return gradients of outputs with zeros between what a stride left out, and around.

    So many that patches of it belong to the inputs, images of ``sides``.
    """
    covered = [(size - 1) * step + 1 for size, step in zip(above.shape[2:], place.stride, strict=True)]
    spread = above.new_zeros(*above.shape[:2], *covered)
    spread[:, :, :: place.stride[0], :: place.stride[1]] = above
    around: list[int] = []
    for axis in (1, 0):  # the last axis comes first in torch's padding
        reach = place.dilation[axis] * (weight.shape[2 + axis] - 1)
        before = reach - place.padding[axis]
        around += [before, sides[axis] + reach - before - covered[axis]]
    return _functional.pad(spread, around)


class _EmulatedConv2d(_torch.nn.Conv2d):  # type: ignore[misc,name-defined]
    def forward(self, images: Tensor) -> Tensor:
        """Map float32[n, inputs, h, w] to float32[n, outputs, h', w']."""
        place = _Place(self.stride, self.padding, self.dilation)
        outputs = _Convolution.apply(images, self.weight, place, self.adders, self.watch)
        return outputs if self.bias is None else outputs + self.bias[:, None, None]


class _EmulatedLinear(_torch.nn.Linear):  # type: ignore[misc,name-defined]
    def forward(self, inputs: Tensor) -> Tensor:
        """Map float32[..., inputs] to float32[..., outputs]: a convolution of size 1 on images of one pixel."""
        pixels, kernels = inputs.reshape(-1, self.in_features, 1, 1), self.weight[:, :, None, None]
        outputs = _Convolution.apply(pixels, kernels, _Place(), self.adders, self.watch)
        outputs = outputs.reshape(*inputs.shape[:-1], self.out_features)
        return outputs if self.bias is None else outputs + self.bias


_EMULATED = {_torch.nn.Conv2d: _EmulatedConv2d, _torch.nn.Linear: _EmulatedLinear}


def _require_emulable(name: str, layer: Module) -> None:
    """Raise ``UnsupportedTensor`` unless ``layer`` can be emulated."""
    if layer.weight.dtype != _torch.float32:
        raise UnsupportedTensor(f"{name}: expected float32 weights, got {layer.weight.dtype}: call model.float() first")
    if isinstance(layer, _torch.nn.Conv2d) and (
        layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str)
    ):
        raise UnsupportedTensor(
            f"{name}: expected a convolution of one group, padded with zeros by a number, got groups={layer.groups}, "
            f"padding_mode={layer.padding_mode!r}, padding={layer.padding!r}: name it in skip"
        )
