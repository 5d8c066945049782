"""The small float32 tensor that Horovod reduces in place of a gradient, and what its reduced value proves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alq_hvd import backends
from alq_hvd.errors import CallOrderError, ConfigurationMismatch, LevelsMismatch, UnsupportedReduction

_GUARD = 4096.0
"""Rank 0 sends it, the others 0. Adasum turns (1, guard) and (1, 0) into something that no linear reduction gives."""
PROBE_LENGTH = 9
PROBE_BYTES = 4 * PROBE_LENGTH


def require_gradient(tensor: Any) -> None:
    """Raise ``UnsupportedReduction`` when ``tensor`` is a parameter itself, which is how Adasum's optimizer calls."""
    if isinstance(tensor, backends.torch().nn.Parameter):
        raise UnsupportedReduction(
            "expected a gradient, got a parameter: Horovod's Adasum reduces changes of parameters, which can not "
            "be quantised here. Use op=hvd.Average or op=hvd.Sum, or drop compression"
        )


@dataclass(frozen=True, slots=True)
class Probe:
    """Fingerprint what all ranks must agree on when they reduce one gradient.

    Each fingerprint enters as bytes: their sums over ranks are exact in float32, and when every rank finds the mean to
    be its own value, all values are equal.

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

    def check(self, reduced: list[float], what: str) -> float:
        """Return the factor of the reduction: 1 for an average, ``size`` for a sum.

        Args:
            reduced: the probe after Horovod's allreduce.
            what: the name of the gradient, for errors.

        Raises:
            UnsupportedReduction: the reduction is not linear, or none of whole tensors.
            ConfigurationMismatch, LevelsMismatch, CallOrderError: some rank disagrees.
        """
        if len(reduced) != PROBE_LENGTH:
            raise UnsupportedReduction(
                f"expected Horovod's allreduce of {PROBE_LENGTH} numbers for {what}, got {len(reduced)}: reducescatter "
                "can not be compressed"
            )
        factor = reduced[0]
        where = f"rank {self.rank}, step {self.step}, gradient {what}"
        if not factor > 0 or abs(reduced[1] / factor - _GUARD / self.size) > 1e-3 * _GUARD / self.size:
            raise UnsupportedReduction(
                f"{where}: expected Horovod to reduce with op=Average or op=Sum, got something else "
                "(Adasum, Min, Max or Product). Quantised gradients can only be added: choose hvd.Average or hvd.Sum, "
                "or drop compression"
            )
        means = [value / factor for value in reduced[2:]]
        off = [abs(mean - own) > 0.25 / self.size for mean, own in zip(means, self._fingerprints(), strict=True)]
        if any(off[0:2]):
            raise ConfigurationMismatch(
                f"{where}: another rank runs with other options or other parameters; start every rank with the same"
            )
        if off[6]:
            raise CallOrderError(
                f"{where}: another rank is at another step; every rank must call optimizer.step() equally often"
            )
        if any(off[4:6]):
            raise CallOrderError(
                f"{where}: this rank has it at position {self.tensor} of the call order, another rank elsewhere. Pass "
                "named_parameters=model.named_parameters() to alq_hvd.Compression, then any order is right"
            )
        if any(off[2:4]):
            raise LevelsMismatch(
                f"{where}: another rank holds other levels; load the same checkpoint on every rank before training"
            )
        return _snap(factor, self.size)

    def _fingerprints(self) -> list[int]:
        numbers = [self.configuration, self.levels, self.tensor]
        return [byte for number in numbers for byte in (number & 255, number >> 8 & 255)] + [self.step & 255]


def _snap(factor: float, size: int) -> float:
    """Return 1 or ``size`` when pre- and postscaling have missed it by rounding, else the factor as it is."""
    for exact in (1.0, float(size)):
        if abs(factor - exact) < 1e-4 * exact:
            return exact
    return factor
