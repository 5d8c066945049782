"""Where the gradients of one fusion group meet: in a buffer on the host, or on their device as they lie."""

from __future__ import annotations

from typing import Any, Protocol

from alq_hvd import backends
from alq_hvd.codec.base import Codec, FloatArray, Values
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.codec.cuda_names import TYPES
from alq_hvd.codec.device_arrays import Parts
from alq_hvd.engine.layout import Slot


class FusionGroup(Protocol):
    """Collect the gradients of a group, give them to the codec together, and give the sums back one by one."""

    @property
    def codec(self) -> Codec:
        """Return what encodes this group."""
        ...

    def put(self, slot: Slot, gradient: Any) -> None:
        """Take the gradient of ``slot``, which must not change until the group is encoded."""
        ...

    def put_zeros(self, slot: Slot) -> None:
        """Take zeros for a gradient that never came."""
        ...

    def values(self) -> Values:
        """Return the values of the complete group; the sum will be written over them."""
        ...

    def take(self, slot: Slot) -> Any:
        """Return the sum for ``slot``: the gradient itself, overwritten, or a tensor like it that is not contiguous."""
        ...

    def clear(self) -> None:
        """Forget the gradients."""
        ...


class HostGroup:
    """Copy gradients, wherever they are, into a float32 buffer on the host; see ``FusionGroup``.

    Args:
        codec: a codec of the host.
        elements: of the group.
        overwrites: sums are written over the gradients.
    """

    def __init__(self, codec: Codec, elements: int, overwrites: bool = True) -> None:
        torch = backends.torch()
        self.codec = codec
        self._overwrites = overwrites
        self._buffer = torch.empty(elements, dtype=torch.float32, device="cpu")
        self._gradients: dict[int, Any] = {}

    def put(self, slot: Slot, gradient: Any) -> None:
        """Copy the gradient; it may change afterwards."""
        self._part(slot).copy_(gradient.detach().reshape(-1))
        self._gradients[slot.index] = gradient

    def put_zeros(self, slot: Slot) -> None:
        """Write zeros."""
        self._part(slot).zero_()

    def values(self) -> FloatArray:
        """Return the buffer."""
        array: FloatArray = self._buffer.numpy()
        return array

    def take(self, slot: Slot) -> Any:
        """Copy the sum into the gradient, or into a tensor like it."""
        gradient = self._gradients[slot.index]
        if self._overwrites:
            return _written(gradient, self._part(slot))
        return self._part(slot).reshape(gradient.shape).to(device=gradient.device, dtype=gradient.dtype, copy=True)

    def clear(self) -> None:
        """Forget the gradients; the buffer stays."""
        self._gradients = {}

    def _part(self, slot: Slot) -> Any:
        return self._buffer[slot.start : slot.stop]


class DeviceGroup:
    """Encode gradients where they are, and decode the sums into them, without a copy; see ``FusionGroup``.

    Only gradients that the kernels cannot read are copied first: those that are not contiguous, and where the dtypes
    of a group differ, or are none of the kernels', all of them, to float32.

    Args:
        codec: of the device on which all gradients of the group are.
    """

    def __init__(self, codec: CudaCodec, overwrites: bool = True) -> None:
        self.codec = codec
        self._overwrites = overwrites
        self._gradients: dict[int, tuple[Slot, Any]] = {}
        self._flat: dict[int, Any] = {}
        self._lengths: tuple[int, ...] = ()

    def put(self, slot: Slot, gradient: Any) -> None:
        """Remember the gradient, and the stream that makes it."""
        self.codec.order.enter()
        self._gradients[slot.index] = slot, gradient if self._overwrites else gradient.detach().clone()

    def put_zeros(self, slot: Slot) -> None:
        """Make zeros on the device."""
        torch = backends.torch()
        self.put(slot, torch.zeros(slot.elements, dtype=torch.float32, device=self.codec.device.name))

    def values(self) -> Parts:
        """Return the gradients, in the order of the plan."""
        self.codec.order.enter(*(gradient for _, gradient in self._gradients.values()))
        flat = {slot.index: gradient.detach().reshape(-1) for slot, gradient in self._in_order()}
        dtypes = {str(tensor.dtype) for tensor in flat.values()}
        if len(dtypes) > 1 or not dtypes <= TYPES.keys():
            flat = {index: tensor.to(backends.torch().float32) for index, tensor in flat.items()}
        self._flat = flat
        self._lengths = self._lengths or tuple(slot.elements for slot, _ in self._in_order())
        return Parts(tuple(flat.values()), self._lengths)

    def take(self, slot: Slot) -> Any:
        """Return the gradient, into which the sum is being decoded, or copy the sum there."""
        _, gradient = self._gradients[slot.index]
        flat = self._flat[slot.index]
        if flat.data_ptr() == gradient.data_ptr() and flat.dtype == gradient.dtype:
            return gradient
        self.codec.order.enter(gradient, flat)
        return _written(gradient, flat)

    def clear(self) -> None:
        """Forget the gradients."""
        self._gradients, self._flat = {}, {}

    def _in_order(self) -> list[tuple[Slot, Any]]:
        return sorted(self._gradients.values(), key=lambda held: held[0].start)


def _written(gradient: Any, flat: Any) -> Any:
    """Return ``gradient`` with the values of ``flat``, as hosts overwrite what they reduce."""
    shaped = flat.reshape(gradient.shape)
    if gradient.is_contiguous():
        gradient.detach().copy_(shaped)
        return gradient
    return shaped.to(device=gradient.device, dtype=gradient.dtype, copy=True)
