"""The Horovod-facing shell: a Compressor whose payload travels beside Horovod's own allreduce of a probe.

It knows the order in which Horovod calls, and nothing of arithmetic:

* ``compress`` runs in backward hooks, in any order; on each rank every ``compress`` of a step precedes the first
  ``decompress`` of it (``horovod/torch/optimizer.py``, ``synchronize``).
* What ``compress`` returns is reduced in place by Horovod and handed to ``decompress``.
* Nothing in ``compress`` waits for other ranks: hooks of two optimizers may fire in another order there. Whatever all
  ranks must agree on waits for the first ``decompress``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from alq_hvd import backends
from alq_hvd.codec.choice import Codecs
from alq_hvd.communicator.base import Communicator
from alq_hvd.communicator.horovod import HorovodCommunicator
from alq_hvd.engine.fusion import Sampler, given_twice, is_dense_float, require_all, require_convertible
from alq_hvd.engine.layout import Gradient
from alq_hvd.engine.options import Options
from alq_hvd.engine.session import Session
from alq_hvd.engine.transport import PlainTransport, Transport
from alq_hvd.errors import CallOrderError, ConfigurationError, ConfigurationMismatch
from alq_hvd.exchange.ledger import ring_bytes
from alq_hvd.frontends.between_steps import BetweenSteps
from alq_hvd.frontends.horovod.call_order_keys import CallOrderKeys
from alq_hvd.frontends.horovod.copies import Copied
from alq_hvd.frontends.horovod.identity_keys import IdentityKeys
from alq_hvd.frontends.horovod.keys import Keys, require_met
from alq_hvd.frontends.horovod.names import unique
from alq_hvd.frontends.horovod.plain import LeftToHorovod
from alq_hvd.frontends.horovod.probe import Probe, probe_bytes, require_gradient
from alq_hvd.frontends.horovod.tickets import Passed, Ticket
from alq_hvd.frontends.horovod.transport import HorovodTransport
from alq_hvd.frontends.horovod.watch import WATCH

_Compressor: Any = object
if backends.available("horovod.torch.compression"):  # else ranks of another kind may be handed over, as in tests
    _Compressor = backends.require("horovod.torch.compression").Compressor


class QuantisedCompressor(BetweenSteps, Copied, _Compressor):  # type: ignore[misc]
    """Compress gradients for ``hvd.DistributedOptimizer(compression=...)`` on stock Horovod.

    Made by ``alq_hvd.Compression.<method>``. One instance serves one optimizer.

    All ranks must agree on: the options, the parameters, the number of steps. If a rank leaves the loop early with
    ``hvd.join()``, the others continue with exact gradients, and those steps do not count.

    Args:
        options: validated options.
        named_parameters: ``model.named_parameters()``. With them, hooks may fire in any order on any rank, and
            gradients are overwritten in place; without, gradients are recognised by call order, which must be the same
            everywhere.
        process_set: the ``hvd.ProcessSet`` given to the optimizer; ``None`` for all ranks.
        communicator: replaces Horovod as the carrier of payloads and levels (simulated worlds, tests).
        sample_gradients: fit levels to the gradients this returns, minibatch by minibatch, instead of to those of the
            scheduled step; the paper draws ten minibatches for it. Called on every rank at the end of a scheduled
            step; use ``torch.autograd.grad``, which leaves ``parameter.grad`` and Horovod's hooks alone.
        codecs: replaces the codecs that the options name (devices that stand for GPUs in tests).
        grad_scaler: the ``torch.amp.GradScaler`` of the training, for error feedback: residuals follow its scale, and
            steps that it skips cost nothing.
    """

    def __init__(
        self,
        options: Options,
        named_parameters: Iterable[tuple[str, Any]] | None = None,
        process_set: Any = None,
        communicator: Communicator | None = None,
        sample_gradients: Sampler | None = None,
        codecs: Codecs | None = None,
        grad_scaler: Any = None,
    ) -> None:
        if sample_gradients is not None and named_parameters is None:
            raise ConfigurationError("sample_gradients: expected named_parameters beside it, which name the gradients")
        self._named = None if named_parameters is None else list(named_parameters)
        self._process_set = process_set
        self._communicator = communicator
        self._sample_gradients, self._grad_scaler = sample_gradients, grad_scaler
        self.options = options if communicator is not None else unique(options, process_set)
        codecs = codecs or Codecs(options.codec)
        self._keys = self._keys_under(options, codecs)
        self._session = Session(
            self.options,
            self._make_transport,
            codecs=codecs,
            sampler=sample_gradients,
            overwrites=self._keys.overwrites,
            loss_scale=None if grad_scaler is None else grad_scaler.get_scale,
        )
        self.options = self._session.options
        self._plain = LeftToHorovod(self._session)
        self.reset()

    def reset(self) -> None:
        """Drop the world and everything in flight in it; levels, step and counters stay.

        The next gradient agrees with the ranks that there are then. A new world of elastic Horovod is noticed, and
        ``hvd.elastic.TorchState(compression=...)`` calls this when it goes back to a commit: no program has to.
        """
        self._session.reset()
        self._forget_world()

    def _forget_world(self) -> None:
        self._staged: dict[int, Any] = {}  # gradients of a step before which ranks have not agreed on their places
        self._decoded: set[int] = set()  # groups
        self._outstanding, self._delivering = 0, False
        self._plain.forget_step()
        self._sparse: list[int] = []
        self._keys.reset()

    def _keys_under(self, options: Options, codecs: Codecs) -> Keys:
        if self._named is None:
            return CallOrderKeys(options.least_elements, codecs.place)
        return IdentityKeys(self._named, options.least_elements, codecs.place)

    def _make_transport(self) -> Transport:
        if self._communicator is not None and not isinstance(self._communicator, HorovodCommunicator):
            return PlainTransport(self._communicator)
        ranks = self._communicator or HorovodCommunicator(self._process_set, self.options.timeout)
        return HorovodTransport(ranks, self.options.name)

    @property
    def communicator(self) -> Communicator:
        """Return what carries the payloads."""
        return self._session.transport.gradients

    @property
    def open_step(self) -> tuple[int, int] | None:
        """Return rank and step while gradients are with Horovod, else ``None``."""
        return (self._session.rank, self._session.step) if self._outstanding else None

    @property
    def timeout(self) -> float:
        """Return how many seconds another rank may be late."""
        return self.options.timeout

    def compress(self, tensor: Any) -> tuple[Any, Any]:
        """Start the exchange of a gradient, and return what Horovod shall reduce in its place.

        Args:
            tensor: a gradient, which its reduced value overwrites where parameters are named, as Horovod's own in-place
                all-reduce does; integer, sparse and small ones, and tensors that are no parameter's gradient, are
                returned as they are for Horovod to reduce exactly.

        Raises:
            UnsupportedReduction: ``tensor`` is a parameter itself, which is how Adasum's optimizer calls.
            UnsupportedTensor: a floating dtype that cannot be converted to float32 and back.
            CallOrderError: the gradient was handed over before in this step, or does not fit the call order.
        """
        session = self._session
        require_gradient(tensor)
        if session.notice_world():
            self._forget_world()
            if isinstance(session.transport, HorovodTransport):
                WATCH.add(self)
        if session.is_idle or not is_dense_float(tensor):
            return self._pass(tensor)
        if self._delivering:
            raise CallOrderError(
                f"rank {session.rank}: a gradient arrived while those of step {session.step} are still being "
                "delivered. Give every optimizer its own alq_hvd.Compression"
            )
        known = self._keys.locate(tensor)
        if known is None:
            self._plain.shapes.append(tuple(tensor.shape))
            return self._pass(tensor)
        require_convertible(tensor)
        if session.is_laid_out:
            session.advance()  # first: what has arrived has waited longer
            session.fill(known.index, tensor)
        else:
            self._stage(known, tensor)
        if not session.is_open:  # last: Horovod sends what is asked here, and the probe, in one message
            session.begin(repeats=self._keys.is_untouched(known.index, tensor))
        self._outstanding += 1
        probe = Probe(
            rank=session.rank,
            size=session.size,
            configuration=session.configuration,
            levels=session.levels_mark,
            tensor=known.index,
            step=session.step,
        )
        session.ledger.sent(ring_bytes(session.size, probe_bytes(session.size)))
        return probe.tensor_of_values(), Ticket(known.index, known.name, probe)

    def decompress(self, tensor: Any, ctx: Any) -> Any:
        """Return the reduced gradient that belongs to ``ctx``.

        Args:
            tensor: what Horovod made of what ``compress`` returned.
            ctx: what ``compress`` returned beside it; ``None`` for sparse gradients, which never came here.

        Raises:
            UnsupportedReduction, ConfigurationMismatch, LevelsMismatch, CallOrderError: ranks do not agree; seen before
                any wrong number is returned.
            ConfigurationError: the optimizer trains none of the parameters that were named.
            WireFormatError: a payload was damaged; where gradients are on a device, the last call of a step says so.
            CommunicationTimeout: a payload did not arrive in time.
        """
        if ctx is None:
            self._plain.count_sparse(tensor)
            return tensor
        if isinstance(ctx, Passed):
            self._delivered()
            return tensor if tensor.dtype == ctx.dtype else tensor.to(ctx.dtype)
        session, reduced = self._session, tensor.reshape(-1).tolist()
        is_met = ctx.probe.is_met(reduced)
        if not is_met:
            ctx.probe.require_same_ranks(reduced, ctx.name, session.attend)
            if session.is_reconfigured:  # a rank that was not would never come to the agreement
                ctx.probe.check(reduced, ctx.name, session.attend())
        if not self._delivering:
            self._all_gradients_seen()
        factor = 1.0 if is_met else ctx.probe.check(reduced, ctx.name, session.attend())
        group = session.groups.layout.slots[ctx.index].group
        if group not in self._decoded:
            session.result(group, factor)
            self._decoded.add(group)
        gradient = session.take(ctx.index)
        self._keys.delivered(ctx.index, gradient)
        self._delivered()
        return gradient

    @property
    def _made_of(self) -> dict[str, Any]:
        return {
            "options": self.options,
            "named_parameters": self._named,
            "process_set": self._process_set,
            "communicator": self._communicator,
            "sample_gradients": self._sample_gradients,
            "grad_scaler": self._grad_scaler,
        }

    @property
    def _is_in_step(self) -> bool:
        return bool(self._outstanding)

    @property
    def _exact_elements(self) -> int:
        return self._plain.elements_last_step

    def _options_changed(self) -> None:
        self._keys = self._keys_under(self.options, self._session.codecs)
        self._forget_world()

    def _stage(self, known: Gradient, tensor: Any) -> None:
        """Keep a gradient until all ranks have agreed on its place."""
        if known.index in self._staged:
            raise given_twice(known.name)
        self._staged[known.index] = tensor

    def _all_gradients_seen(self) -> None:
        """Make sure, at a step's first ``decompress``, that every fusion group is on its way."""
        session = self._session
        if not session.is_laid_out:
            try:
                session.lay_out(self._keys.end_of_calls())
            except ConfigurationMismatch as mismatch:
                remedy = "for example with hvd.elastic.TorchState(compression=...)"
                raise ConfigurationMismatch(f"{mismatch}, {remedy}") from mismatch
        staged, self._staged = self._staged, {}
        for index in sorted(staged):
            session.fill(index, staged[index])
        absent = session.groups.missing()
        # Horovod reduces sparse gradients without asking: their place is empty this once, and gone from the next step.
        sparse = self._keys.sparse(slot.index for slot in absent)
        for index in sparse:
            session.fill(index, None)
        missing = [slot for slot in absent if slot.index not in sparse]
        require_all(missing, len(session.groups.layout.slots), session.rank, session.step)
        session.flush()
        self._sparse, self._delivering = sparse, True

    def _delivered(self) -> None:
        """Count a gradient that went back to Horovod; the last one of a step ends it."""
        self._outstanding -= 1
        if self._outstanding:
            return
        if self._delivering or self._compresses_nothing:
            self._end_step()
        else:
            require_met(self._keys, self._plain.shapes)
        self._plain.shapes = []

    @property
    def _compresses_nothing(self) -> bool:
        known = self._keys.gradients
        if self._session.is_idle or known is None:
            return self._session.is_idle
        return len(self._keys.sparse(range(len(known)))) == len(known)

    def _end_step(self) -> None:
        self._delivering, self._decoded = False, set()
        self._keys.end_step()
        self._session.end_step()
        if self._sparse:
            self._keys.drop(self._sparse)
            self._sparse = []
            self._session.give_up_layout()
        self._plain.end_step()

    def _pass(self, tensor: Any) -> tuple[Any, Passed]:
        """Leave a tensor to Horovod."""
        self._outstanding += 1
        return self._plain.take(tensor), Passed(tensor.dtype)
