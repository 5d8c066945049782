"""What becomes of quantised weights after each step of their optimizer: curvature, scales, and the checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from alq_hvd import backends
from alq_hvd.communicator.base import Communicator
from alq_hvd.communicator.horovod import HorovodCommunicator
from alq_hvd.errors import WeightsError
from alq_hvd.quantiser.config import require_int
from alq_hvd.weights.agreement import require_agreement
from alq_hvd.weights.curvature import OwnSecondMoments, curvature, has_second_moment, second_moment
from alq_hvd.weights.parametrization import as_wide
from alq_hvd.weights.schemes import Scheme

Tensor: TypeAlias = Any
torch = backends.torch()


class Kept(Protocol):
    """Be one quantised tensor: a layer of a model, or a parameter of an optimizer."""

    @property
    def name(self) -> str:
        """Return what errors and checkpoints call it."""
        ...

    @property
    def scheme(self) -> Scheme:
        """Return how it is quantised."""
        ...

    @property
    def weight(self) -> Tensor:
        """Return the parameter, which holds the full weight when ``after_step`` is called."""
        ...

    @property
    def scales(self) -> Tensor | None:
        """Return the scales of the step before."""
        ...

    def keep(self, scales: Tensor | None) -> None:
        """Take ``scales`` from now on."""
        ...


class Upkeep:
    """Keep the scales of some tensors up to date.

    Args:
        tensors: the same, in the same order, on all ranks.
        communicator: of all ranks; Horovod's when ``None`` and the optimizer is Horovod's.
        solve_every: steps after which scales are solved for from nothing.
        check_every: steps between two checksums over the ranks; 0 never compares.
        clamp: keep weights in [-1, 1]; ``None`` for those of ``lab`` alone.

    Raises:
        ConfigurationError: for a number out of range.
    """

    def __init__(
        self,
        tensors: Sequence[Kept],
        communicator: Communicator | None,
        solve_every: int,
        check_every: int,
        clamp: bool | None,
    ) -> None:
        require_int("solve_every", solve_every, 1, 2**31)
        require_int("check_every", check_every, 0, 2**31)
        self.tensors = tuple(tensors)
        self.communicator = communicator
        self.steps = 0
        self._solve_every, self._check_every, self._clamp = solve_every, check_every, clamp
        self._optimizer: Any = None
        self._own: OwnSecondMoments | None = None

    def follow(self, optimizer: Any) -> None:
        """Take the curvature from ``optimizer``, or average its gradients where it has no second moment."""
        self._optimizer = optimizer
        if self.communicator is None and is_horovods(optimizer):
            self.communicator = HorovodCommunicator()
        if not has_second_moment(optimizer):
            self._own = OwnSecondMoments()

    def after_step(self) -> None:
        """Clamp, solve for the scales, and now and then compare over the ranks: all at the same step.

        Raises:
            WeightsError: when a weight or the curvature is NaN or infinite.
            WeightsMismatch: when ranks have come apart.
        """
        self.steps += 1
        with torch.no_grad():
            for tensor in self.tensors:
                if self._clamp or (self._clamp is None and tensor.scheme.name == "lab"):
                    tensor.weight.clamp_(-1, 1)
        self.solve(anew=self.steps % self._solve_every == 0, learn=True)
        if self._check_every and self.steps % self._check_every == 0:
            self.verify()

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def solve(self, anew: bool, learn: bool = False) -> None:
        """Solve for all scales: from nothing, or from those of the step before; ``learn``: from this step's gradients.

        Raises:
            WeightsError: when a weight or the curvature is NaN or infinite.
        """
        finite = []
        for tensor in self.tensors:
            wide, bend = as_wide(tensor.weight.detach()), self._curvature(tensor, learn)
            if anew:
                tensor.keep(tensor.scheme.solve(wide, bend))
            else:
                tensor.keep(tensor.scheme.improve(wide, bend, tensor.scales, self.steps))
            finite.append(torch.isfinite(wide.sum() if bend is None else wide.sum() + bend.sum()))
        if not bool(torch.stack(finite).all()):  # the one place that waits for a device, once a step
            name = next(each.name for each, fine in zip(self.tensors, finite, strict=True) if not fine)
            raise WeightsError(
                f"{name}: NaN or infinity in its weights or second moment after step {self.steps}: go back to a "
                "checkpoint, with a smaller learning rate"
            )

    def verify(self) -> None:
        """Compare weights and scales over all ranks, bit for bit; a collective.

        Raises:
            WeightsMismatch: on every rank, naming the ranks and the tensor that differ.
        """
        if self.communicator is not None and self.communicator.size > 1:
            tensors = {tensor.name: (tensor.weight, tensor.scales) for tensor in self.tensors}
            require_agreement(self.communicator, tensors, self.steps)

    def _curvature(self, tensor: Kept, learn: bool) -> Tensor | None:
        """Return D of a tensor, ``None`` before the first step and for schemes that do not look at it."""
        if self._optimizer is None or not tensor.scheme.loss_aware:
            return None
        if self._own is not None:
            moment = self._own.update(tensor.name, tensor.weight.grad if learn else None)
        else:
            moment = second_moment(self._optimizer.state.get(tensor.weight, {}), tensor.weight)
        return None if moment is None else curvature(as_wide(moment))

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps, and our own second moments where there are some."""
        state: dict[str, Any] = {"steps": self.steps}
        if self._own is not None:
            state["second_moments"] = dict(self._own.moments)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self.steps = int(state["steps"])
        if self._own is not None:
            likes = {tensor.name: as_wide(tensor.weight.detach()) for tensor in self.tensors}
            moments = state.get("second_moments", {})
            self._own.moments = {name: moment.to(likes[name]).clone() for name, moment in moments.items()}


def is_horovods(optimizer: Any) -> bool:
    """Return whether ``optimizer`` was made by ``hvd.DistributedOptimizer``."""
    return hasattr(optimizer, "skip_synchronize") and hasattr(optimizer, "synchronize")
