"""The DDP-facing shell: a communication hook whose payload replaces the all-reduce of a bucket.

What it knows of DDP (``torch/csrc/distributed/c10d/reducer.cpp``):

* The hook is called once a bucket, in the order of their numbers on every rank, while the backward pass goes on.
* The backward pass waits, after the last bucket, for what the hook returned, and takes the gradients from there.
* In a pass under ``no_sync()`` the hook is not called. A rank that has joined, in ``with model.join()``, calls it with
  buckets of zeros.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from alq_hvd import backends
from alq_hvd.codec.choice import Codecs
from alq_hvd.communicator.base import Communicator
from alq_hvd.communicator.torch_distributed import TorchCommunicator
from alq_hvd.engine.fusion import Sampler, require_all, require_convertible
from alq_hvd.engine.options import Options
from alq_hvd.engine.session import Session
from alq_hvd.engine.transport import PlainTransport, Transport
from alq_hvd.errors import CallOrderError, ConfigurationError, UnsupportedTensor
from alq_hvd.frontends.between_steps import BetweenSteps
from alq_hvd.frontends.ddp.exact import ExactMeans
from alq_hvd.frontends.ddp.parameters import Parameters
from alq_hvd.frontends.process_group import ProcessGroupTransport
from alq_hvd.quantiser.policies import Policy


class CompressionState(BetweenSteps):
    """Hold what compresses the gradients of one ``DistributedDataParallel`` model; goes with ``hook``.

    All ranks must agree on: the options, the model, the number of steps.

    Gradients of ``min_elements`` and more travel as records; smaller ones are averaged exactly, all of a step together.
    ``fusion_elements`` decides which travel together, not DDP's buckets.

    Args:
        method: name of the method, or a level policy of your own.
        bits: width of a code; ``None`` for 3 (2 for ternary); ``(4, 8)`` for gradients and their sums.
        bucket_size: coordinates that share a norm; ``None`` for the default.
        named_parameters: ``model.named_parameters()``, for the names in errors and for ``sample_gradients``.
        process_group: the one given to ``DistributedDataParallel``; ``None`` for all ranks.
        sample_gradients: fit levels to the gradients this returns, minibatch by minibatch, by the names of
            ``named_parameters``. It is called inside the backward pass: use ``torch.autograd.grad`` of the loss of
            ``model.module``.
        grad_scaler: the ``torch.amp.GradScaler`` of the training, for error feedback.
        communicator: replaces the process group, for simulated worlds.
        codecs: replaces the codecs that the options name.
        options: the other fields of ``Options``, by name. What they leave to Horovod is left to DDP's own all-reduce
            here.

    Raises:
        ConfigurationError: for an option out of range.
        TypeError: for an unknown option.
    """

    def __init__(
        self,
        method: str | Policy,
        bits: Any = None,
        bucket_size: int | None = None,
        *,
        named_parameters: Iterable[tuple[str, Any]] | None = None,
        process_group: Any = None,
        sample_gradients: Sampler | None = None,
        grad_scaler: Any = None,
        communicator: Communicator | None = None,
        codecs: Codecs | None = None,
        **options: Any,
    ) -> None:
        if sample_gradients is not None and named_parameters is None:
            raise ConfigurationError("sample_gradients: expected named_parameters beside it, which name the gradients")
        self.options = Options.of(method, bits=bits, bucket_size=bucket_size, **options)
        self._process_group, self._communicator = process_group, communicator
        codecs = codecs or Codecs(self.options.codec)
        self._named, self._place_of = None if named_parameters is None else list(named_parameters), codecs.place
        self._session = Session(
            self.options,
            self._make_transport,
            codecs=codecs,
            sampler=sample_gradients,
            loss_scale=None if grad_scaler is None else grad_scaler.get_scale,
            in_order=True,
        )
        self._learn_parameters()
        self._exact_elements_last_step = 0
        self.reset()

    def _learn_parameters(self) -> None:
        self._parameters = Parameters(self._named, self.options.least_elements, self._place_of)

    def reset(self) -> None:
        """Drop the step in flight, after an error, and the ranks; levels, step and counters stay.

        The next bucket must be the first one of a step, on every rank.
        """
        self._session.reset()
        self._forget_step()

    def _forget_step(self) -> None:
        self._unplaced: list[tuple[Any, Any]] = []  # parameters and gradients of a step before there is a layout
        self._small: list[tuple[Any, Any]] = []  # parameters and gradients that are not compressed
        self._exact = ExactMeans(self._session)
        self._expected = 0  # number of the next bucket
        self._futures: list[tuple[Any, Any]] = []

    def _make_transport(self) -> Transport:
        if self._communicator is not None:
            return PlainTransport(self._communicator)
        options = self.options
        return ProcessGroupTransport(
            TorchCommunicator(self._process_group, options.timeout), direct=options.device_records
        )

    def reduce(self, bucket: Any) -> Any:
        """Return a future of the mean of ``bucket`` over all ranks; ``hook`` calls it.

        The future of a step's last bucket, and with it all others, is complete when this returns.

        Args:
            bucket: a ``torch.distributed.GradBucket``; its buffer is overwritten.

        Raises:
            UnsupportedTensor: gradients that are sparse, or of a dtype that float32 cannot stand for.
            CallOrderError: buckets of another model, or of a step whose beginning was missed.
            ConfigurationMismatch, LevelsMismatch: ranks do not agree.
            WireFormatError: a payload was damaged.
            CommunicationTimeout: a rank did not take part.
        """
        session, buffer = self._session, bucket.buffer()
        self._require_turn(bucket.index())
        if bucket.index() == 0:
            session.notice_world()
        _require_dense(buffer)
        if session.is_idle:
            self._exact.whole(buffer)
        else:
            if not session.is_open:
                session.begin()
            self._fill(list(zip(bucket.parameters(), bucket.gradients(), strict=True)))
        future = backends.torch().futures.Future(devices=[buffer.device] if buffer.is_cuda else None)
        self._futures.append((future, buffer))
        if bucket.is_last():
            self._finish()
        return future

    def _require_turn(self, index: int) -> None:
        if index != self._expected:
            raise CallOrderError(
                f"rank {self._session.rank}, step {self._session.step}: expected bucket {self._expected} of a step, "
                f"got bucket {index}: give every model a CompressionState of its own, and call its reset() on every "
                "rank after a backward pass that has failed"
            )
        self._expected += 1

    def _fill(self, gradients: list[tuple[Any, Any]]) -> None:
        """Give gradients to their fusion groups; in a world's first step, and in the first of all, keep them."""
        if not self._session.is_laid_out:
            self._unplaced += gradients
            return
        for parameter, gradient in gradients:
            index = self._parameters.index(parameter)
            if index is None:
                self._small.append((parameter, gradient))
            else:
                self._session.fill(index, gradient)
        self._session.advance()

    def _finish(self) -> None:
        """Wait for the step's means, and write them into its buckets."""
        session = self._session
        if not session.is_idle and not session.is_laid_out:
            self._lay_out()
        self._exact.together(self._parameters.in_order(self._small))
        if session.is_open:
            layout = session.groups.layout
            require_all(session.groups.missing(), len(layout.slots), session.rank, session.step)
            session.flush()
            for group in range(len(layout.group_elements)):
                session.result(group, 1.0)
            for index in range(len(layout.slots)):
                session.take(index)
        self._exact.wait()
        session.end_step()
        futures, self._exact_elements_last_step = self._futures, self._exact.elements
        self._forget_step()
        for future, buffer in futures:
            future.set_result(buffer)

    def _lay_out(self) -> None:
        known, unplaced = self._parameters.gradients, self._unplaced
        if known is None:
            known = self._parameters.learn([parameter for parameter, _ in unplaced])
        self._session.lay_out(known)
        self._unplaced = []
        self._fill(unplaced)

    @property
    def _is_in_step(self) -> bool:
        return self._expected > 0

    @property
    def _exact_elements(self) -> int:
        return self._exact_elements_last_step

    def _options_changed(self) -> None:
        self._learn_parameters()


def hook(state: Any, bucket: Any) -> Any:
    """Average a bucket of gradients over the ranks: the hook for ``DistributedDataParallel.register_comm_hook``.

    Args:
        state: a ``CompressionState``, one a model.
        bucket: a ``torch.distributed.GradBucket``.

    Returns:
        A ``torch.futures.Future`` of the bucket's buffer; see ``CompressionState.reduce``.
    """
    if not isinstance(state, CompressionState):
        raise ConfigurationError(
            f"alq_hvd.ddp.hook: expected a CompressionState beside it, got {type(state).__name__}: write "
            "model.register_comm_hook(alq_hvd.ddp.CompressionState(method=...), alq_hvd.ddp.hook)"
        )
    return state.reduce(bucket)


# DDP wants the very classes of torch as annotations, or none; texts are neither.
hook.__annotations__.clear()


def _require_dense(buffer: Any) -> None:
    if str(buffer.layout) != "torch.strided":
        raise UnsupportedTensor(
            f"expected dense gradients, got a bucket of layout {buffer.layout}: use torch.nn.Embedding(sparse=False)"
        )
    require_convertible(buffer)
