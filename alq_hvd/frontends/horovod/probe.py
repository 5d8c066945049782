"""The small tensor that Horovod reduces in place of a gradient, and what its reduced value proves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from alq_hvd import backends
from alq_hvd.engine.transport import Attendance
from alq_hvd.errors import CallOrderError, ConfigurationMismatch, LevelsMismatch, UnsupportedReduction

_GUARD = 4096.0
"""Rank 0 sends it, the others 0. Adasum turns (1, guard) and (1, 0) into something that no linear reduction gives."""
PROBE_LENGTH = 9
_SINGLE_RANKS = 64
"""Up to so many ranks a probe is float32, which Horovod sends in one message with gradients that are not compressed.

Numbers up to 255 are off by no more than 2^-24 of themselves in each of n additions, whatever
``gradient_predivide_factor`` they are divided by on the way; ``check`` bears a quarter of 1 / n: up to 128 ranks.
"""


def summed_type(ranks: int) -> Any:
    """Return the torch dtype of probes, and of the question who takes part, among so many ranks."""
    torch = backends.torch()
    return torch.float32 if ranks <= _SINGLE_RANKS else torch.float64


def probe_bytes(ranks: int) -> int:
    """Return the length of a probe."""
    return PROBE_LENGTH * int(summed_type(ranks).itemsize)


def require_gradient(tensor: Any) -> None:
    """Raise ``UnsupportedReduction`` when ``tensor`` is a parameter itself, which is how Adasum's optimizer calls."""
    if isinstance(tensor, backends.torch().nn.Parameter):
        raise UnsupportedReduction(
            "expected a gradient, got a parameter: Horovod's Adasum reduces changes of parameters, which cannot "
            "be quantised here. Use op=hvd.Average or op=hvd.Sum, or drop compression"
        )


@dataclass(frozen=True, slots=True)
class Probe:
    """Fingerprint what all ranks must agree on when they reduce one gradient.

    Each fingerprint enters as bytes: when every rank finds the mean over the ranks to be its own value, all values are
    equal.

    Attributes:
        rank, size: in the process set.
        configuration: 16 bits of the digest of all options and parameters.
        levels: 16 bits of the digest of the level tables and their versions.
        tensor: index of the gradient in the plan.
        step: training step.
    """

    rank: int
    size: int
    configuration: int
    levels: int
    tensor: int
    step: int

    def values(self) -> list[float]:
        """Return the ``PROBE_LENGTH`` numbers this rank contributes."""
        return [1.0, _GUARD if self.rank == 0 else 0.0, *map(float, self._fingerprints())]

    def tensor_of_values(self) -> Any:
        """Return them as what Horovod shall reduce."""
        return backends.torch().tensor(self.values(), dtype=summed_type(self.size), device="cpu")

    def is_met(self, reduced: Sequence[float]) -> bool:
        """Return whether ``reduced`` is the very average that ranks which agree in everything get: the usual case.

        ``False`` proves nothing: other averages than those of powers of two are rounded, and sums are as good.
        """
        return reduced == [1.0, _GUARD / self.size, *self._fingerprints()]

    def require_same_ranks(self, reduced: Sequence[float], what: str, attend: Callable[[], Attendance]) -> None:
        """Raise an error where Horovod has averaged over another process set than the compression's.

        That shows at once, before anything waits for ranks which never come.

        Args:
            reduced: the probe after Horovod's allreduce.
            what: the name of the gradient, for errors.
            attend: waits for who takes part in the step; asked where rank 0 did not take part in the reduction.

        Raises:
            UnsupportedReduction: it was no reduction of whole tensors, or rank 0 was missed in it.
            ConfigurationMismatch: over other ranks.
        """
        if len(reduced) != PROBE_LENGTH:
            raise UnsupportedReduction(
                f"expected Horovod's allreduce of {PROBE_LENGTH} numbers for {what}, got {len(reduced)}: reducescatter "
                "cannot be compressed"
            )
        if not reduced[1] > 0:
            self._require_linear(reduced, what, attend())
        if not _near(reduced[0], 1.0) or not reduced[1] > 0:
            return
        took_part = _GUARD / reduced[1]
        if _near(took_part, round(took_part)) and 1 < round(took_part) != self.size:
            raise ConfigurationMismatch(
                f"{self._where(what)}: Horovod averaged over {round(took_part)} ranks, this compression was made for "
                f"{self.size}: give the same process_set to hvd.DistributedOptimizer and to alq_hvd.Compression"
            )

    def check(self, reduced: Sequence[float], what: str, attendance: Attendance) -> float:
        """Return the factor of the reduction: 1 for an average, ``size`` for a sum.

        Args:
            reduced: the probe after Horovod's allreduce.
            what: the name of the gradient, for errors.
            attendance: who has handed over a gradient; the others count as zeros.

        Raises:
            UnsupportedReduction: the reduction is not linear.
            ConfigurationMismatch, LevelsMismatch, CallOrderError: some rank disagrees.
        """
        self._require_linear(reduced, what, attendance)
        where = self._where(what)
        means = [value / reduced[0] for value in reduced[2:]]
        off = [abs(mean - own) > 0.25 / self.size for mean, own in zip(means, self._fingerprints(), strict=True)]
        if any(off[0:2]):
            raise ConfigurationMismatch(
                f"{where}: another rank runs with other options or other parameters: start every rank with the same"
            )
        if off[6]:
            raise CallOrderError(
                f"{where}: another rank is at another step: call optimizer.step() equally often on every rank"
            )
        if any(off[4:6]):
            raise CallOrderError(
                f"{where}: this rank has it at position {self.tensor} of the call order, another rank elsewhere. Pass "
                "named_parameters=model.named_parameters() to alq_hvd.Compression, then any order is right"
            )
        if any(off[2:4]):
            raise LevelsMismatch(
                f"{where}: another rank has other levels: load the same checkpoint on every rank before training"
            )
        return _snap(reduced[0] * self.size / attendance.present, self.size)

    def _require_linear(self, reduced: Sequence[float], what: str, attendance: Attendance) -> None:
        """Raise ``UnsupportedReduction`` unless ``reduced`` is a sum over those who take part, scaled or not."""
        present = attendance.present
        guard = _GUARD * attendance.leads / present
        if not reduced[0] > 0 or abs(reduced[1] / reduced[0] - guard) > 1e-3 * _GUARD / present:
            raise UnsupportedReduction(
                f"{self._where(what)}: expected Horovod to reduce with op=Average or op=Sum over the {self.size} ranks "
                "of this compression, got something else (Adasum, Min, Max or Product, another process_set, or a scale "
                "that is not positive). Quantised gradients can only be added: choose hvd.Average or hvd.Sum, with "
                "positive prescale_factor and postscale_factor, and give the same process_set to the optimizer and to "
                "alq_hvd.Compression; or drop compression"
            )

    def _where(self, what: str) -> str:
        return f"rank {self.rank}, step {self.step}, gradient {what}"

    def _fingerprints(self) -> list[int]:
        configuration, levels, tensor = self.configuration, self.levels, self.tensor  # asked for with every gradient
        low, high = [configuration & 255, configuration >> 8 & 255], [levels & 255, levels >> 8 & 255]
        return [*low, *high, tensor & 255, tensor >> 8 & 255, self.step & 255]


def _near(value: float, exact: float) -> bool:
    return abs(value - exact) < 1e-4 * exact


def _snap(factor: float, size: int) -> float:
    """Return 1 or ``size`` when pre- and postscaling have missed it by rounding, else the factor as it is."""
    for exact in (1.0, float(size)):
        if _near(factor, exact):
            return exact
    return factor
