"""The gradients of a step that travel as they are: small ones together, or whole buckets as DDP would send them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alq_hvd import backends
from alq_hvd.communicator.base import Pending
from alq_hvd.engine.session import Session
from alq_hvd.exchange.ledger import ring_bytes
from alq_hvd.frontends.process_group import ExactAllreduce


class ExactMeans:
    """Average tensors over the ranks in place, during one step.

    All ranks must agree on: the order of the calls, the numbers of elements.

    Attributes:
        elements: that were given.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._started: list[tuple[Pending[None], Callable[[], None]]] = []
        self.elements = 0

    def whole(self, buffer: Any) -> None:
        """Start to average a bucket in its own type, as DDP does without a hook."""
        plain, number = self._session.plain, len(self._started)
        if not isinstance(plain, ExactAllreduce):
            self.together([buffer], f"bucket{number}")
        elif self._counts(buffer.numel(), buffer.element_size()):
            self._started.append((plain.average(buffer, f"bucket{number}", _nothing), _nothing))

    def together(self, tensors: list[Any], name: str = "small") -> None:
        """Start to average ``tensors`` in one collective, in float32."""
        if not self._counts(sum(tensor.numel() for tensor in tensors), 4):
            return
        torch, session = backends.torch(), self._session
        flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])
        as_bytes = flat.view(torch.uint8)
        name = f"{session.options.name}.{name}"
        pending = session.plain.start(as_bytes if flat.is_cuda else as_bytes.numpy(), False, name)

        def give_back() -> None:
            parts = flat.split([tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.detach().copy_(part.view_as(tensor))

        self._started.append((pending, give_back))

    def wait(self) -> None:
        """Wait for all means, and write them where the gradients were."""
        for pending, give_back in self._started:
            pending.wait()
            give_back()

    def _counts(self, elements: int, bytes_each: int) -> bool:
        """Count what is sent; return whether there is anything to send."""
        self.elements += elements
        self._session.ledger.sent(ring_bytes(self._session.size, elements * bytes_each))
        return elements > 0 and self._session.size > 1


def _nothing() -> None:
    """Do nothing: the mean is in its place."""
