"""The ways to average gradients that trainings under DDP compare: the host's own, ours by method and bits, PowerSGD."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from alq_hvd.quantiser import methods

FLAGS: dict[str, dict[str, Any]] = {
    "rotate": {"rotate": True},
    "feedback": {"error_feedback": True},
    "adaptive": {"widths": "adaptive"},
    "alone": {"correlated": False},
}
POWER_SGD = "powersgd"
POWER_SGD_STARTS_AT = 10
"""Steps that PowerSGD sends in float32, as its authors advise: its first guesses are random."""
ONE_BUCKET_MB = 1024
"""Over Gloo the hook of PowerSGD needs a single bucket: it starts collectives of several in an order of chance."""
FORM = "fp32, fp16, powersgd:RANK or METHOD:BITS[:" + "|".join(FLAGS) + "...]"


@dataclass(slots=True)
class Way:
    """Hold one way.

    Attributes:
        name: as the user wrote it.
        host: ``"fp32"``, ``"fp16"``, ``"powersgd"``, or empty for ours.
        method: of ours.
        bits: of a code, or the rank of PowerSGD's factors.
        options: further ones of ``alq_hvd.ddp.CompressionState``.
    """

    name: str
    host: str = ""
    method: str = ""
    bits: float = 0
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Way:
        """Return the way that ``text`` means.

        Raises:
            ValueError: it means none.
        """
        kind, *rest = text.split(":")
        if kind in ("fp32", "fp16") and not rest:
            return cls(text, host=kind)
        unknown = [flag for flag in rest[1:] if flag not in FLAGS]
        if not rest or unknown or kind not in (POWER_SGD, *methods.NAMES) or (kind == POWER_SGD and len(rest) > 1):
            raise ValueError(f"expected {FORM}, got {text!r}")
        number = float(rest[0])
        if kind == POWER_SGD:
            return cls(text, host=kind, bits=number)
        options = {name: value for flag in rest[1:] for name, value in FLAGS[flag].items()}
        return cls(text, method=kind, bits=int(number) if number == int(number) else number, options=options)

    @property
    def bucket_cap_mb(self) -> int | None:
        """Return the option of that name for ``DistributedDataParallel``."""
        return ONE_BUCKET_MB if self.host == POWER_SGD else None

    def register(self, model: Any, exchange: str, seed: int) -> Any:
        """Give ``model``, a ``DistributedDataParallel``, the hook of this way; return the hook's state."""
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

        import alq_hvd

        if self.host == "fp32":
            return None
        if self.host == "fp16":
            model.register_comm_hook(None, default_hooks.fp16_compress_hook)
            return None
        if self.host == POWER_SGD:
            state: Any = powerSGD_hook.PowerSGDState(
                None, int(self.bits), start_powerSGD_iter=POWER_SGD_STARTS_AT, random_seed=seed
            )
            model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
            return state
        state = alq_hvd.ddp.CompressionState(
            self.method, self.bits, exchange=exchange, seed=seed, timeout=600, **self.options
        )
        model.register_comm_hook(state, alq_hvd.ddp.hook)
        return state

    def bytes_per_step(self, state: Any, parameters: int, ranks: int, steps: int) -> float:
        """Return what a rank has sent in the mean step: counted by ours, by the ring formula for the others."""
        ring = 2 * (ranks - 1) / ranks
        if self.host == POWER_SGD:
            *_, after = state.compression_stats()
            dense = min(POWER_SGD_STARTS_AT, steps) * parameters
            return ring * 4 * (dense + after) / steps
        if self.host:
            return ring * (4 if self.host == "fp32" else 2) * parameters
        return float(state.metrics()["bytes_total"]) / steps
