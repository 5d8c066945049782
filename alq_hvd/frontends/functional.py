"""Plain calls: average tensors over ranks whenever a program asks for it, with no optimizer and no hook in between."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from alq_hvd import backends
from alq_hvd.engine.fusion import is_convertible, is_dense_float
from alq_hvd.engine.handshake import agree_on_configuration
from alq_hvd.engine.layout import gradients_of
from alq_hvd.engine.options import Options
from alq_hvd.engine.session import Session
from alq_hvd.errors import AlqError, ConfigurationError, UnsupportedTensor
from alq_hvd.frontends.ranks import transport_over

Tensor = Any
"""A torch.Tensor, or a NumPy array, which is overwritten just as well."""
Tensors = Iterable[Tensor] | Mapping[str, Tensor]
OPS = ("mean", "sum")
_DIGEST_BYTES = 8


class Allreduce:
    """Average tensors over ranks, in place, call by call; levels are fitted from call to call.

    For outer gradients (DiLoCo, local SGD, federated rounds) and for your own programs. A call is a step: the
    schedule of the levels counts calls. It returns when every tensor is overwritten, with the same bits on all ranks.

    All ranks must agree on: the options, the tensors of a call (order, shapes, dtypes), the number of calls. Each call
    checks that, so that every rank gets the error. Tensors may be others than in the last call.

    Args:
        over: the ranks: a ``torch.distributed.ProcessGroup`` or one-dimensional ``DeviceMesh``, or an
            ``mpi4py.MPI.Comm``, of which each rank makes duplicates, together. ``None``: all ranks of
            torch.distributed.
        method: as in ``alq_hvd.quantiser.methods.NAMES``.
        bits: width of a code; ``None`` for the method's usual one.
        options: the other fields of ``Options``, by name. ``break_even`` is off by default, because a call asks for
            compression. Tensors below ``min_elements`` travel together as float32.

    Raises:
        ConfigurationError: an option is out of range, or ``over`` has no ranks.
        TypeError: for an unknown option.
    """

    def __init__(self, over: Any = None, *, method: str = "optimal", bits: Any = None, **options: Any) -> None:
        self.options = Options.of(method, bits=bits, **{"break_even": False, **options})
        transport = transport_over(over, self.options.timeout)
        self._session = Session(self.options, lambda: transport)
        self._described: list[list[Any]] = []
        self._exact_elements = 0

    def __call__(self, tensors: Tensors, *, op: str = "mean") -> None:
        """Overwrite each of ``tensors`` with its mean over the ranks, or its sum.

        Args:
            tensors: dense floating ones on the host or on GPUs, contiguous or not; parameters are overwritten
                without autograd noticing.
            op: ``"mean"`` or ``"sum"``.

        Raises:
            ConfigurationMismatch: ranks differ, in anything; on every rank.
            UnsupportedTensor: all ranks give a tensor that cannot be averaged.
            CommunicationTimeout: a rank is gone, or did not call.
        """
        given = _named(tensors)
        try:
            self._reduce(given, op)
        except BaseException:
            self._session.reset()  # the next call finds out again which ranks there are and what they share
            raise

    def _reduce(self, given: list[tuple[str, Tensor]], op: str) -> None:
        session = self._session
        session.notice_world()
        flat, problem = self._checked(given, op)
        described = [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in flat]
        self._agree(described, problem, op)
        if problem:
            raise UnsupportedTensor(f"rank {session.rank}: {problem}")
        if session.size == 1:
            session.aggregator.end_exact_step(counted=True)
            return
        least = self.options.least_elements
        large = [(name, tensor) for name, tensor in flat if tensor.numel() >= least]
        small = [tensor for _, tensor in flat if tensor.numel() < least]
        session.begin()
        if not session.is_laid_out or described != self._described:
            session.lay_out(gradients_of(large, session.codecs.place))
            self._described = described
        factor = float(session.size if op == "sum" else 1)
        self._compress([tensor for _, tensor in large], factor)
        self._average_exactly(small, factor)
        session.end_step()

    def _compress(self, tensors: list[Tensor], factor: float) -> None:
        session = self._session
        for index, tensor in enumerate(tensors):
            session.fill(index, tensor)
        session.flush()
        for group in range(len(session.groups.layout.group_elements)):
            session.result(group, factor)
        for index, tensor in enumerate(tensors):
            reduced = session.take(index)
            if reduced is not tensor:
                tensor.copy_(reduced)

    def _average_exactly(self, tensors: list[Tensor], factor: float) -> None:
        torch = backends.torch()
        self._exact_elements = sum(tensor.numel() for tensor in tensors)
        if not self._exact_elements:
            return
        joined = torch.cat([tensor.reshape(-1).to("cpu", torch.float32) for tensor in tensors])
        self._session.average(joined.numpy(), factor)
        for tensor, part in zip(tensors, joined.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.reshape(tensor.shape))

    def _checked(self, given: list[tuple[str, Tensor]], op: str) -> tuple[list[tuple[str, Tensor]], str]:
        """Return the tensors outside autograd, and what is wrong with the first one that is; empty for nothing."""
        if op not in OPS:
            return [], f"op: expected one of {', '.join(OPS)}, got {op!r}"
        flat = []
        for name, tensor in given:
            try:
                flat.append((name, self._usable(tensor)))
            except AlqError as error:
                return [], f"tensor {name}: {error}"
        return flat, ""

    def _usable(self, tensor: Tensor) -> Tensor:
        torch = backends.torch()
        if isinstance(tensor, np.ndarray):
            if not tensor.flags.writeable:
                raise UnsupportedTensor("expected an array that can be overwritten, got a read-only one: copy it")
            try:
                tensor = torch.from_numpy(tensor)
            except (TypeError, ValueError) as error:
                raise UnsupportedTensor(f"{error}: copy it to a contiguous array of a native type") from error
        if not isinstance(tensor, torch.Tensor):
            raise UnsupportedTensor(f"expected a torch.Tensor or a numpy.ndarray, got {type(tensor).__name__}")
        tensor = tensor.detach()
        if not is_dense_float(tensor) or not is_convertible(tensor):
            raise UnsupportedTensor(
                f"expected dense float16, bfloat16, float32 or float64, got {tensor.dtype}, {tensor.layout}: average "
                "it some other way"
            )
        self._session.codecs.place(tensor)
        return tensor

    def _agree(self, described: list[list[Any]], problem: str, op: str) -> None:
        """Make sure, by one small all-gather, that all ranks call alike; where they do not, find out what differs."""
        session = self._session
        ranks, name = session.transport.gradients, f"{self.options.name}.call"
        own = {
            "completed calls": session.step,
            "problem": problem or "none",
            "op": op,
            "tensors": described,
            "ranks have met": session.is_laid_out and described == self._described,
        }
        digest = hashlib.blake2b(json.dumps(own).encode(), digest_size=_DIGEST_BYTES).digest()
        told = ranks.allgather(np.frombuffer(digest, dtype=np.uint8), name).wait()
        if any(other.tobytes() != digest for other in told):
            agree_on_configuration(ranks, own, f"{name}.difference")

    def metrics(self) -> dict[str, Any]:
        """Return what this rank counted so far, as plain values; ``Session.metrics`` explains the keys.

        ``step`` counts calls, and ``passed_through_elements`` those that travelled as float32 in the last one.
        """
        return {**self._session.metrics(), "passed_through_elements": self._exact_elements}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed program needs to go on bit for bit; the same on every rank but for counters."""
        return self._session.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken; call it on every rank.

        Raises:
            StateError: the state is of another method, width or seed, or is damaged.
        """
        self._session.load_state_dict(state)


_remembered: dict[tuple[int, str], tuple[Any, Allreduce]] = {}


def allreduce_(tensors: Tensors, over: Any = None, *, op: str = "mean", **options: Any) -> None:
    """Overwrite ``tensors`` with their means over the ranks: ``Allreduce``, made at the first call and kept.

    One is kept for every ``over`` with every set of ``options``, as long as the process lives: levels are fitted from
    call to call. Make an ``Allreduce`` of your own for metrics and checkpoints.

    Args:
        tensors: see ``Allreduce.__call__``.
        over: the ranks; see ``Allreduce``.
        op: ``"mean"`` or ``"sum"``.
        options: of ``Allreduce``.

    Raises:
        AlqError: see ``Allreduce`` and ``Allreduce.__call__``.
    """
    key = id(over), repr(sorted(options.items()))
    if key not in _remembered:
        _remembered[key] = over, Allreduce(over, **options)  # `over` is kept, so that its id stays its own
    average = _remembered[key][1]
    try:
        average(tensors, op=op)
    except BaseException:
        if not average.metrics()["step"]:  # perhaps ranks differ in their options: then each has made another one
            del _remembered[key]
        raise


def _named(tensors: Tensors) -> list[tuple[str, Tensor]]:
    if isinstance(tensors, Mapping):
        return list(tensors.items())
    if isinstance(tensors, np.ndarray | backends.torch().Tensor):
        raise ConfigurationError("tensors: expected several, in a list or by name, got one: write [tensor]")
    return [(str(index), tensor) for index, tensor in enumerate(tensors)]
