"""``alq_hvd.Compression.<method>(...)``: one constructor a method, in the shape of ``hvd.Compression``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from alq_hvd.communicator.base import DEFAULT_TIMEOUT, Communicator
from alq_hvd.engine.adaptation.schedule import Schedule
from alq_hvd.engine.fusion import Sampler
from alq_hvd.engine.options import Options
from alq_hvd.frontends.horovod.compressor import QuantisedCompressor
from alq_hvd.frontends.horovod.elastic import register
from alq_hvd.quantiser.config import DEFAULT_BUCKET_SIZE, Norm


@dataclass(frozen=True, slots=True)
class Constructor:
    """Make the compressors of one method; the arguments are those of ``Options``, whose documentation they share."""

    method: str
    bits: int = 3

    def __call__(
        self,
        bits: int | Sequence[int] | None = None,
        bucket_size: int = DEFAULT_BUCKET_SIZE,
        *,
        named_parameters: Iterable[tuple[str, Any]] | None = None,
        process_set: Any = None,
        norm: Norm | None = None,
        clip: float | None = None,
        weight_exponent: int | None = None,
        zero_level: bool | None = None,
        free_ends: bool = False,
        rotate: bool | None = None,
        correlated: bool | None = None,
        exchange: str = "auto",
        ranks_per_node: int | None = None,
        break_even: bool | None = None,
        accumulator: str = "auto",
        error_feedback: bool = False,
        schedule: Schedule | int | Sequence[int] | None = None,
        seed: int = 0,
        fusion_elements: int = 2**22,
        min_elements: int = 1024,
        measure_every: int = 100,
        codec: str = "auto",
        device_records: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
        name: str = "alq_hvd",
        communicator: Communicator | None = None,
        sample_gradients: Sampler | None = None,
        grad_scaler: Any = None,
    ) -> QuantisedCompressor:
        """Return a compressor to pass as ``hvd.DistributedOptimizer(compression=...)``.

        Args:
            bits: width of a code; ``None`` for 3 (2 for ternary); ``(4, 8)`` for gradients and their sums.
            named_parameters: ``model.named_parameters()``; see ``QuantisedCompressor``.
            process_set: the one given to the optimizer.
            communicator: replaces Horovod, for simulated worlds.
            sample_gradients: fit levels to extra minibatches, as the paper does; see ``QuantisedCompressor``.
            grad_scaler: of mixed precision, beside error feedback; see ``QuantisedCompressor``.

        Raises:
            ConfigurationError: for an option out of range.
        """
        options = Options(
            method=self.method,
            bits=self.bits if bits is None else tuple(bits) if isinstance(bits, Sequence) else bits,
            bucket_size=bucket_size,
            norm=norm,
            clip=clip,
            weight_exponent=weight_exponent,
            zero_level=zero_level,
            free_ends=free_ends,
            rotate=rotate,
            correlated=correlated,
            exchange=exchange,
            ranks_per_node=ranks_per_node,
            break_even=break_even,
            accumulator=accumulator,
            error_feedback=error_feedback,
            schedule=schedule,
            seed=seed,
            fusion_elements=fusion_elements,
            min_elements=min_elements,
            measure_every=measure_every,
            codec=codec,
            device_records=device_records,
            timeout=timeout,
            name=name,
        )
        return QuantisedCompressor(
            options, named_parameters, process_set, communicator, sample_gradients, grad_scaler=grad_scaler
        )


class Compression:
    """Name every method, as ``hvd.Compression`` names ``none`` and ``fp16``."""

    alq = Constructor("alq")
    alq_n = Constructor("alq_n")
    alqg = Constructor("alqg")
    alqg_n = Constructor("alqg_n")
    amq = Constructor("amq")
    amq_n = Constructor("amq_n")
    optimal = Constructor("optimal")
    qsgd = Constructor("qsgd")
    qsgdinf = Constructor("qsgdinf")
    nuqsgd = Constructor("nuqsgd")
    terngrad = Constructor("terngrad", bits=2)
    eden = Constructor("eden")
    none = Constructor("none")


register()
