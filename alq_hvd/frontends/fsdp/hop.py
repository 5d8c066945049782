"""One reduction of FSDP: over the ranks of a process group, tensor by tensor, each waited for where FSDP waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alq_hvd import backends
from alq_hvd.codec.base import Codec, Values
from alq_hvd.codec.choice import Codecs
from alq_hvd.codec.cuda_names import TYPES
from alq_hvd.codec.device_arrays import Parts
from alq_hvd.communicator.torch_distributed import TorchCommunicator
from alq_hvd.engine.aggregator import Aggregator
from alq_hvd.engine.fusion import is_convertible
from alq_hvd.engine.handshake import fingerprint
from alq_hvd.engine.joining import agree_on_layout, join
from alq_hvd.engine.layout import FusionLayout
from alq_hvd.engine.options import Options
from alq_hvd.errors import UnsupportedTensor
from alq_hvd.exchange.kinds import ExchangeKind
from alq_hvd.frontends.process_group import ProcessGroupTransport
from alq_hvd.quantiser.record import RecordLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshTransport(ProcessGroupTransport):
    """Reach the ranks of one dimension of a mesh, and all ranks of the mesh, who share levels; see ``Transport``.

    Attributes:
        everyone: on the mesh.
    """

    everyone: TorchCommunicator

    def control_problem(self) -> str:
        """Return nothing: levels travel over the whole mesh."""
        return ""

    def control(self) -> TorchCommunicator:
        """Return what reaches the whole mesh."""
        return self.everyone


class Hop:
    """Sum tensors over the ranks of one process group, one after another, in steps.

    All ranks must agree on: the options, the layout, the order of the tensors.

    Args:
        options: of this hop.
        transport: to its ranks.
        place: of these ranks among ``places`` groups like theirs, which sum other coordinates, or the same ones of
            other ranks: each draws random numbers of its own.
        kind: the exchange to take, whatever the options name.
    """

    def __init__(
        self, options: Options, transport: MeshTransport, place: int, places: int, kind: ExchangeKind | None = None
    ) -> None:
        self.options, self.transport = options, transport
        self.codecs = Codecs(options.codec)
        self._place, self._places = place, places
        self._exact = options.resolve().exact
        self.aggregator = Aggregator(options, self.codecs.host, exchange=kind)

    def join(self, layout: FusionLayout) -> None:
        """Agree with the other ranks on options, levels and ``layout``; blocks."""
        aggregator, options, transport = self.aggregator, self.options, self.transport
        aggregator.connect(transport, join(options, transport, aggregator.position))
        agree_on_layout(options, layout, transport, aggregator.exchange.remembered)
        aggregator.lay_out(fingerprint({"gradients": layout.describe()}))

    @property
    def quantises(self) -> bool:
        """Return whether records travel in the open step."""
        return not self._exact and self.aggregator.step >= self.options.start_at

    def pays(self, tensor: Any, parts: int) -> bool:
        """Return whether ``tensor``, in so many parts, is worth records; the same on every rank.

        Raises:
            UnsupportedTensor: float32 cannot stand for its numbers.
        """
        if not self.quantises:
            return False
        if not is_convertible(tensor):
            raise UnsupportedTensor(
                f"rank {self.transport.gradients.rank}: expected gradients of a floating dtype of 16 to 64 bits, got "
                f"{tensor.dtype}: pass fully_shard a MixedPrecisionPolicy(reduce_dtype=torch.float32)"
            )
        elements = tensor.numel() // parts
        record = RecordLayout(elements, self.options.quantiser()).record_bytes
        return bool(tensor.numel() >= self.options.min_elements and record < elements * tensor.element_size())

    def reduce(self, index: int, tensor: Any, out: Any, factor: float) -> None:
        """Write to ``out`` ``factor`` times the mean of all ranks' ``tensor``, as the exchange leaves it to this rank.

        On a device ``out`` may still be on its way, in the order of the current stream; else this blocks.

        Args:
            index: of the gradient in the layout.
            tensor: is overwritten.
            out: may be the tensor.
        """
        codec, own, values = self._values(tensor)
        result, room = (own, values) if out is tensor else self._values(out, fill=False)[1:]
        group = index * self._places + self._place
        self.aggregator.start(group, values, codec, out=room)
        self.aggregator.result(group, factor / self.transport.gradients.size)
        if result is not out:
            out.copy_(result.reshape(out.shape))

    def end_step(self) -> None:
        """Close the step; at a scheduled one fit the levels of the next, together with all ranks of the mesh."""
        if self.quantises:
            self.aggregator.end_step()
        else:
            self.aggregator.end_exact_step(counted=True)

    def _values(self, tensor: Any, *, fill: bool = True) -> tuple[Codec, Any, Values]:
        """Return what encodes ``tensor``, a flat tensor that the codec can take, perhaps itself, and its values."""
        torch, place = backends.torch(), self.codecs.place(tensor)
        flat = tensor.detach().reshape(-1)
        device = "cpu" if place is None else flat.device
        dtype = flat.dtype if place is not None and str(flat.dtype) in TYPES else torch.float32
        if (flat.device, flat.dtype) == (torch.device(device), dtype):
            own = tensor
        elif fill:
            own = flat = flat.to(device, dtype)
        else:
            own = flat = torch.empty_like(flat, device=device, dtype=dtype)
        if place is None:
            return self.codecs.host, own, flat.numpy()
        return self.codecs.on(place), own, Parts((flat,))
