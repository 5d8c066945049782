"""The Horovod-facing shell: a Compressor whose payload travels beside Horovod's own allreduce of a probe.

It knows the order in which Horovod calls, and nothing of arithmetic:

* ``compress`` runs in backward hooks, in any order; on each rank every ``compress`` of a step precedes the first
  ``decompress`` of it (``horovod/torch/optimizer.py``, ``synchronize``).
* What ``compress`` returns is reduced in place by Horovod and handed to ``decompress``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from alq_hvd import backends
from alq_hvd.codec.choice import Codecs
from alq_hvd.communicator.base import Communicator
from alq_hvd.communicator.horovod import HorovodCommunicator
from alq_hvd.engine.aggregator import Aggregator
from alq_hvd.engine.fusion import (
    FusionGroups,
    Sampler,
    is_dense_float,
    require_all,
    require_convertible,
    sampled_groups,
)
from alq_hvd.engine.handshake import fingerprint
from alq_hvd.engine.joining import agree_on_layout, join, rival
from alq_hvd.engine.layout import FusionLayout, Slot, keys
from alq_hvd.engine.options import Options
from alq_hvd.errors import CallOrderError, ConfigurationError
from alq_hvd.exchange.ledger import ring_bytes
from alq_hvd.frontends.horovod.plain import for_sum
from alq_hvd.frontends.horovod.probe import PROBE_BYTES, Probe, require_gradient
from alq_hvd.frontends.horovod.tickets import Passed, Ticket
from alq_hvd.planning.break_even import PLAIN
from alq_hvd.version import __version__

_Compressor = backends.require("horovod.torch.compression").Compressor


class QuantisedCompressor(_Compressor):  # type: ignore[misc,valid-type]
    """Compress gradients for ``hvd.DistributedOptimizer(compression=...)`` on stock Horovod.

    Made by ``alq_hvd.Compression.<method>``. One instance serves one optimizer.

    All ranks must agree on: the options, the parameters, the number of steps.

    Args:
        options: validated options.
        named_parameters: ``model.named_parameters()``. With them, hooks may fire in any order on any rank; without,
            gradients are recognised by call order, which must be the same everywhere, and the first step does not
            overlap with the backward pass.
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
        self.options = options
        self._sample_gradients = sample_gradients
        self._exact = options.resolve().exact
        self._codecs = codecs or Codecs(options.codec)
        self._keys = keys(named_parameters, options.min_elements, options.fusion_elements, self._codecs.place)
        self._process_set = process_set
        self._communicator = communicator
        self._aggregator = Aggregator(
            options,
            self._codecs.host,
            sampled=sample_gradients is not None,
            loss_scale=None if grad_scaler is None else grad_scaler.get_scale,
        )
        self._configuration = fingerprint({**options.shared(), "alq_hvd": __version__})
        self._torch = backends.torch()
        self._ledger = self._aggregator.ledger
        self._passed_elements_last_step = 0
        self.reset()

    def reset(self) -> None:
        """Forget the world and all that was under way in it; levels, step and counters stay.

        The next gradient agrees with the ranks that there are then. A new world of elastic Horovod is noticed, and
        ``hvd.elastic.TorchState(compression=...)`` calls this when it goes back to a commit: no program has to.
        """
        self._world: object = None  # that all ranks have agreed in
        self._rank, self._size = 0, 0
        self._groups: FusionGroups | None = None  # of the layout that all ranks have agreed on
        self._staged: list[Any] = []  # gradients of the first step, while call order is being learnt
        self._sparse: list[Slot] = []
        self._decoded: set[int] = set()  # groups
        self._outstanding, self._passed_elements, self._delivering = 0, 0, False
        self._plain = False  # measured: compression would not pay
        self._keys.reset()
        self._aggregator.disconnect()

    @property
    def communicator(self) -> Communicator:
        """Return what carries the payloads."""
        if self._communicator is None:
            self._communicator = HorovodCommunicator(self._process_set, self.options.timeout)
        return self._communicator

    def compress(self, tensor: Any) -> tuple[Any, Any]:
        """Start the exchange of a gradient, and return what Horovod shall reduce in its place.

        Args:
            tensor: a gradient, which its reduced value overwrites, as Horovod's own in-place all-reduce does; integer,
                sparse and small ones, and tensors that are no parameter's gradient, are returned as they are for
                Horovod to reduce exactly.

        Raises:
            UnsupportedReduction: ``tensor`` is a parameter itself, which is how Adasum's optimizer calls.
            UnsupportedTensor: a floating dtype that can not be converted to float32 and back.
            ConfigurationMismatch: at the first call, when ranks were started with different options.
            CallOrderError: the gradient was handed over before in this step, or does not fit the call order.
        """
        torch = self._torch
        require_gradient(tensor)
        self._connect()
        if self._exact or self._size == 1 or not is_dense_float(tensor):
            return self._pass(tensor)
        if self._delivering:
            raise CallOrderError(
                f"rank {self._rank}: a gradient arrived while those of step {self._aggregator.step} are still being "
                "delivered. Give every optimizer its own alq_hvd.Compression"
            )
        if self._keys.layout is not None and self._groups is None:
            self._agree_on_layout(self._keys.layout)
        slot = None if self._plain else self._keys.locate(tensor)
        if slot is None:
            return self._pass(tensor)
        require_convertible(tensor)
        if self._groups is None:
            self._staged.append(tensor)
        else:
            self._fill(slot, tensor)
            self._aggregator.advance()
        self._outstanding += 1
        probe = Probe(
            rank=self._rank,
            size=self._size,
            configuration=self._configuration,
            levels=self._aggregator.levels_fingerprint,
            tensor=slot.index,
            step=self._aggregator.step,
        )
        self._ledger.sent(ring_bytes(self._size, PROBE_BYTES))
        return torch.tensor(probe.values(), dtype=torch.float32), Ticket(slot.index, slot.name, probe)

    def decompress(self, tensor: Any, ctx: Any) -> Any:
        """Return the reduced gradient that belongs to ``ctx``.

        Args:
            tensor: what Horovod made of what ``compress`` returned.
            ctx: what ``compress`` returned beside it; ``None`` for sparse gradients, which never came here.

        Raises:
            UnsupportedReduction, ConfigurationMismatch, LevelsMismatch, CallOrderError: the probe shows that ranks do
                not agree, before any wrong number is returned.
            WireFormatError: a payload was damaged; where gradients are on a device, the last call of a step says so.
            CommunicationTimeout: a payload did not arrive in time.
        """
        if ctx is None:
            return tensor
        if isinstance(ctx, Passed):
            self._delivered()
            return tensor if tensor.dtype == ctx.dtype else tensor.to(ctx.dtype)
        factor = ctx.probe.check(tensor.reshape(-1).tolist(), ctx.name)
        if not self._delivering:
            self._all_gradients_seen()
        assert self._groups is not None
        slot = self._groups.layout.slots[ctx.index]
        if slot.group not in self._decoded:
            self._aggregator.result(slot.group, factor / self._size)
            self._decoded.add(slot.group)
        gradient = self._groups.take(slot)
        self._delivered()
        return gradient

    def scale_changed(self, old: float, new: float) -> None:
        """Say, between steps, that gradients are multiplied by ``new`` instead of by ``old`` from now on.

        For error feedback with a scaler of your own; ``grad_scaler=`` asks one of PyTorch by itself. Call it on every
        rank.

        Raises:
            ConfigurationError: the scales are not positive numbers.
        """
        self._aggregator.scale_changed(old, new)

    def metrics(self) -> dict[str, Any]:
        """Return what this rank counted so far, as plain values that json can write.

        Keys: ``method``, ``bits``, ``step`` (completed steps), ``bytes_per_step`` (sent by this rank in the last step:
        records, probes, and gradients that Horovod reduced itself, by the ring formula), ``bytes_total``,
        ``relative_variance`` (E|Q(g)-g|^2/|g|^2 of this rank's own gradients, latest measurement), ``levels_version``,
        ``levels``, ``seconds`` (of this rank in encode, exchange, decode, adapt), ``adaptations`` (the newest hundred),
        ``fit_is_due`` (a scheduled fit could not be done and is tried at every step),
        ``compressed_elements`` and ``passed_through_elements`` (of a step), ``exchange`` (in use; empty before the
        first step; none when plain Horovod reduces), ``break_even`` (choice and predicted seconds of a step, when
        measured), ``later_shots`` (levels, variance and adaptations of the sums that a second hop quantises).
        """
        measured = self._aggregator.metrics()
        if self._exact or self._plain:
            measured["exchange"] = "none"
        if self._exact:
            measured["levels"] = []
        return {
            **measured,
            "compressed_elements": sum(self._groups.layout.group_elements) if self._groups else 0,
            "passed_through_elements": self._passed_elements_last_step,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold beside model and optimizer; call it between steps.

        Plain Python values, the same on every rank but for counters and, with error feedback, residuals: tensors.
        """
        if self._outstanding:
            raise CallOrderError("state_dict: expected to be called between steps, got a step with gradients in flight")
        return self._aggregator.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken; call it on every rank before the next step.

        All may load the same state; residuals of error feedback are taken from a rank's own state only.

        Raises:
            StateError: when the state belongs to another method, width or seed, or is damaged.
        """
        self._aggregator.load_state_dict(state)

    def _connect(self) -> None:
        """Agree with all ranks on options and state, at the first call and in every new world of elastic Horovod."""
        communicator = self.communicator
        if communicator.world is self._world:
            return
        self.reset()
        self._rank, self._size = communicator.rank, communicator.size
        if self._size > 1 and not self._exact:
            self._aggregator.connect(communicator, join(self.options, communicator, self._aggregator.position))
        self._world = communicator.world

    def _agree_on_layout(self, layout: FusionLayout) -> None:
        chosen, stock = self._aggregator.exchange, rival(self.options, self.communicator)
        agree_on_layout(self.options, layout, self.communicator, chosen.remembered)
        self._groups = FusionGroups(layout, self._codecs)
        if stock is not None and chosen.decision is None and layout.group_elements:
            self._plain = self._aggregator.settle(layout.group_elements, stock, self._groups.main_codec).choice == PLAIN
        self._aggregator.lay_out(fingerprint({"gradients": layout.describe()}))

    def _fill(self, slot: Slot, gradient: Any) -> None:
        """Give a gradient to its fusion group, and start the group's exchange when it is complete."""
        assert self._groups is not None
        group = self._groups.fill(slot, gradient)
        if group is not None:
            self._aggregator.start(slot.group, group.values(), group.codec)

    def _all_gradients_seen(self) -> None:
        """Make sure, at a step's first ``decompress``, that every fusion group is on its way."""
        layout = self._keys.end_of_calls()
        if self._groups is None:
            self._agree_on_layout(layout)
        assert self._groups is not None
        for slot, gradient in zip(layout.slots, self._staged, strict=False):
            self._fill(slot, gradient)
        self._staged = []
        absent = self._groups.missing()
        # Horovod reduces sparse gradients without asking: their place is empty this once, and gone from the next step.
        self._sparse = [slot for slot in absent if self._keys.is_sparse(slot)]
        for slot in self._sparse:
            self._fill(slot, None)
        missing = [slot for slot in absent if slot not in self._sparse]
        require_all(missing, len(layout.slots), self._rank, self._aggregator.step)
        self._delivering = True

    def _delivered(self) -> None:
        """Count a gradient that went back to Horovod; the last one of a step ends it."""
        self._outstanding -= 1
        if self._outstanding == 0 and (self._delivering or self._compresses_nothing):
            self._end_step()

    @property
    def _compresses_nothing(self) -> bool:
        nothing = self._keys.layout is not None and not self._keys.layout.slots
        return self._exact or self._plain or self._size == 1 or nothing

    def _end_step(self) -> None:
        self._delivering = False
        self._decoded = set()
        if self._groups is not None:
            if self._sample_gradients is not None and self._aggregator.wants_samples:
                with self._aggregator.sampling():
                    for group in sampled_groups(self._groups, self._sample_gradients()):
                        self._aggregator.sample(group.values(), group.codec)
            self._groups.clear()
        self._keys.end_step()
        if self._sparse:
            self._keys.drop(self._sparse)
            self._sparse, self._groups = [], None
        self._passed_elements_last_step, self._passed_elements = self._passed_elements, 0
        self._aggregator.end_step()

    def _pass(self, tensor: Any) -> tuple[Any, Passed]:
        """Leave a tensor to Horovod, in a type in which it can be added up."""
        wide = for_sum(tensor, self.options.accumulator, self._size, self._rank == 0)
        self._outstanding += 1
        self._passed_elements += int(tensor.numel())
        self._ledger.sent(ring_bytes(self._size, wide.numel() * wide.element_size()))
        return wide, Passed(tensor.dtype)
