"""``alq_hvd.Compression.<method>(...)``: one constructor a method, in the shape of ``hvd.Compression``."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, NoReturn

from alq_hvd.communicator.base import Communicator
from alq_hvd.engine.fusion import Sampler
from alq_hvd.engine.options import Options
from alq_hvd.errors import ConfigurationError
from alq_hvd.frontends.horovod.compressor import QuantisedCompressor
from alq_hvd.frontends.horovod.elastic import register
from alq_hvd.quantiser.methods import NAMES
from alq_hvd.quantiser.policies import Policy


@dataclass(frozen=True, slots=True)
class Constructor:
    """Make the compressors of one method; the options are those of ``Options``, which documents them."""

    method: str | Policy

    def __call__(
        self,
        bits: float | Sequence[float] | None = None,
        bucket_size: int | None = None,
        *,
        named_parameters: Iterable[tuple[str, Any]] | None = None,
        process_set: Any = None,
        communicator: Communicator | None = None,
        sample_gradients: Sampler | None = None,
        grad_scaler: Any = None,
        **options: Any,
    ) -> QuantisedCompressor:
        """Return a compressor to pass as ``hvd.DistributedOptimizer(compression=...)``.

        Args:
            bits: width of a code; ``None`` for 3 (2 for ternary); ``(4, 8)`` for gradients and their sums; the mean of
                widths with ``widths="adaptive"``.
            bucket_size: coordinates that share a norm; ``None`` for the default.
            named_parameters: ``model.named_parameters()``; see ``QuantisedCompressor``.
            process_set: the one given to the optimizer.
            communicator: replaces Horovod, for simulated worlds.
            sample_gradients: fit levels to extra minibatches, as the paper does; see ``QuantisedCompressor``.
            grad_scaler: of mixed precision, beside error feedback; see ``QuantisedCompressor``.
            options: the other fields of ``Options``, by name.

        Raises:
            ConfigurationError: for an option out of range.
            TypeError: for an unknown option.
        """
        chosen = Options.of(self.method, bits=bits, bucket_size=bucket_size, **options)
        return QuantisedCompressor(
            chosen, named_parameters, process_set, communicator, sample_gradients, grad_scaler=grad_scaler
        )

    @property
    def __signature__(self) -> inspect.Signature:
        """Return the signature with every option, for ``help`` and editors."""
        own = inspect.signature(Constructor.__call__).parameters
        named = [parameter for name, parameter in own.items() if name not in ("self", "options")]
        more = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=field.type,
            )
            for field in fields(Options)
            if field.name != "method" and field.name not in own
        ]
        return inspect.Signature([*named, *more], return_annotation=QuantisedCompressor)

    def compress(self, tensor: Any) -> NoReturn:
        """Raise ``ConfigurationError``: Horovod received the constructor instead of its result."""
        raise ConfigurationError(
            f"compression: expected alq_hvd.Compression.{self.method}(...), got it uncalled: write "
            f"compression=alq_hvd.Compression.{self.method}(named_parameters=model.named_parameters())"
        )

    decompress = compress


class Compression:
    """Name every method of ``alq_hvd.quantiser.methods.NAMES``, as ``hvd.Compression`` names ``none`` and ``fp16``."""

    @staticmethod
    def using(policy: Policy) -> Constructor:
        """Return the constructor of a level policy of your own: ``Compression.using(policy)(bits=3, ...)``."""
        return Constructor(policy)

    alq: Constructor
    alq_n: Constructor
    alqg: Constructor
    alqg_n: Constructor
    amq: Constructor
    amq_n: Constructor
    optimal: Constructor
    qsgd: Constructor
    qsgdinf: Constructor
    nuqsgd: Constructor
    terngrad: Constructor
    eden: Constructor
    none: Constructor


for _name in NAMES:
    setattr(Compression, _name, Constructor(_name))
register()
