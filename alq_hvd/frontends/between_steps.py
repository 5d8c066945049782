"""What a program does with a compression between steps, whatever its host: other options, figures, checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from alq_hvd.engine.options import Options
from alq_hvd.engine.session import Session
from alq_hvd.errors import CallOrderError


class BetweenSteps(ABC):
    """Answer between two steps; a front end that overwrites gradients in a backward pass stands on it.

    Attributes:
        options: in force.
    """

    options: Options
    _session: Session

    @property
    @abstractmethod
    def _is_in_step(self) -> bool:
        """Return whether gradients are in flight."""

    @property
    @abstractmethod
    def _exact_elements(self) -> int:
        """Return how many elements of the last step were left to the host."""

    @abstractmethod
    def _options_changed(self) -> None:
        """Learn that ``options`` are others, and that the session has left its world."""

    def scale_changed(self, old: float, new: float) -> None:
        """Say, between steps, that gradients are multiplied by ``new`` instead of by ``old`` from now on.

        For error feedback with a scaler of your own; ``grad_scaler=`` asks one of PyTorch by itself. Call it on every
        rank.

        Raises:
            ConfigurationError: the scales are not positive numbers.
        """
        self._session.aggregator.scale_changed(old, new)

    def reconfigure(self, **changes: Any) -> None:
        """Go on with other options, as in ``reconfigure(bits=2, exchange="two_shot")``, from the next step on.

        Call it between the same two steps on every rank. Step and counters stay, and so do levels where gradients are
        quantised as before; else they are fitted in the next step. A state that is saved afterwards is one of the new
        options.

        Raises:
            CallOrderError: in the middle of a step.
            ConfigurationError: for a value out of range; nothing has changed then.
            TypeError: for an option that there is not.
        """
        self._require_between_steps("reconfigure")
        self._session.reconfigure(**changes)
        self.options = self._session.options
        self._options_changed()

    def metrics(self) -> dict[str, Any]:
        """Return what this rank counted so far, as plain values that json can write.

        Keys: ``method``, ``bits``, ``step`` (completed steps), ``bytes_per_step`` (sent by this rank in the last step:
        records, probes of Horovod's front end, and gradients that the host reduced itself, by the ring formula),
        ``bytes_total``, ``relative_variance`` (E|Q(g)-g|^2/|g|^2 of this rank's own gradients, latest measurement),
        ``levels_version``, ``levels``, ``seconds`` (of this rank in encode, exchange, decode, adapt), ``adaptations``
        (the newest hundred), ``fit_is_due`` (a scheduled fit could not be done and is tried at every step),
        ``compressed_elements`` and ``passed_through_elements`` (of a step), ``exchange`` (in use; empty before the
        first step; none when the host reduces), ``break_even`` (choice and predicted seconds of a step, when
        measured), ``later_shots`` (levels, variance and adaptations of the sums that a second hop quantises).
        """
        return {**self._session.metrics(), "passed_through_elements": self._exact_elements}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold beside model and optimizer; call it between steps.

        Plain Python values, the same on every rank but for counters and, with error feedback, residuals: tensors.
        """
        self._require_between_steps("state_dict")
        return self._session.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken; call it on every rank before the next step.

        All may load the same state; residuals of error feedback are taken from a rank's own state only.

        Raises:
            CallOrderError: in the middle of a step.
            StateError: when the state belongs to another method, width or seed, or is damaged.
        """
        self._require_between_steps("load_state_dict")
        self._session.load_state_dict(state)

    def _require_between_steps(self, call: str) -> None:
        if self._is_in_step:
            raise CallOrderError(f"{call}: call it between steps; gradients of a step are still in flight")
