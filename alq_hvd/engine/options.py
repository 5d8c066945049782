"""What a user can choose about a compression, validated once and shared by all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, cast

from alq_hvd.accumulation.types import AUTO as PLANNED
from alq_hvd.accumulation.types import require_type
from alq_hvd.codec import choice as codecs
from alq_hvd.communicator.base import DEFAULT_TIMEOUT
from alq_hvd.engine.adaptation.schedule import Schedule
from alq_hvd.errors import ConfigurationError
from alq_hvd.exchange import kinds
from alq_hvd.quantiser.config import DEFAULT_BUCKET_SIZE, MAXIMUM_BUCKET_SIZE, Norm, QuantiserConfig, require_int
from alq_hvd.quantiser.levels import MAXIMUM_BITS
from alq_hvd.quantiser.levels_by_width import AnyLevels
from alq_hvd.quantiser.methods import Method, lowest_adaptive_width, method, name_of, usual_bits
from alq_hvd.quantiser.policies import Policy
from alq_hvd.quantiser.policies.by_width import ByWidth, initial_tables
from alq_hvd.quantiser.record import MAXIMUM_ELEMENTS

UNIFORM, ADAPTIVE = WIDTHS = ("uniform", "adaptive")
SMALLEST_COMPRESSED = 64
"""Coordinates. In float32 they are 256 bytes, two thirds of a 3-bit bucket of 1024: little to gain, much to spoil."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Hold every option of ``alq_hvd.Compression.<method>``.

    Attributes:
        method: name of the method, as in ``alq_hvd.quantiser.methods.NAMES``, or a policy of your own: a frozen
            object with ``adapts``, ``weight_exponent`` and ``update`` (``alq_hvd.quantiser.policies.Policy``) whose
            ``repr`` is the same on every rank.
        bits: width of a code, 1 to 8. More: more bytes, less variance. Two of them, ``(4, 8)``: the first for
            gradients, the second for the sums that two-shot sends on; one stands for both. With adaptive widths: their
            mean, 0.5 to 8, which may be a fraction.
        widths: ``"uniform"``, or ``"adaptive"``: every block of 1024 coordinates, or a larger bucket, has a width that
            follows its energy, and none where it is exactly zero: far less error for the same bytes where gradients are
            sparse or spread over many orders of magnitude, as in embeddings. See docs/decisions/0017-widths.md.
        bucket_size: coordinates that share a norm. More: fewer bytes, more variance.
        norm: ``"l2"`` or ``"linf"``; ``None`` for the method's own.
        clip: standard deviations to which each bucket is clamped first (a bias); ``None`` for the method's own.
        weight_exponent: power of the norm that weighs a bucket when levels are fitted; ``None`` for the method's own.
        zero_level: hold a level that is exactly zero, so that a coordinate that is zero on every rank stays zero;
            ``None`` for the method's own, which is yes from 2 bits on (ALQ, AMQ and their variants: 3), unless buckets
            are rotated.
        free_ends: let the outermost levels leave -1 and 1.
        rotate: rotate every bucket, so that its coordinates look normal: less variance for more arithmetic; ``None``
            for the method's own, which is no except for ``eden``.
        correlated: coordinate the random numbers of rounding between ranks, so that their errors partly cancel: each
            rank stays unbiased, the mean has less error, bytes and decoder are the same. ``None``: yes, except for
            ``eden``, which draws none. See docs/decisions/0015-correlated-rounding.md.
        dither: in the second shot, where one rank encodes a sum, receivers draw the random numbers of its rounding
            again and subtract the part of the error that they determine: still unbiased, with a little more than half
            of the error, but zeros do not stay zero. ``None``: only where the table holds no zero.
            See docs/decisions/0016-dither.md.
        exchange: ``"allgather"`` (few ranks), ``"two_shot"`` (many), ``"hierarchical"`` (several ranks a node: not
            quantised inside, two-shot between nodes), or ``"auto"``: the one that suits the world; see ``break_even``
            and ``exchange.kinds``.
        ranks_per_node: for ``"hierarchical"``: number of consecutive ranks that form a node; ``None``: ask the host.
        break_even: measure link and codec before the first step, choose the exchange by time, and leave gradients to
            the host's all-reduce where compression would not pay. ``None``: where ``exchange`` is ``"auto"`` and the
            host has an all-reduce. The choice depends on a measurement, so two runs of one program may train
            differently; with ``False``, or an exchange by name, they do not.
        accumulator: float type of the sums inside the nodes of ``"hierarchical"``, and of gradients left to Horovod.
            ``"auto"``: the cheapest whose rounding is negligible beside the quantiser's (``alq_hvd.accumulation``);
            gradients left to Horovod are widened where their own type is too narrow, never narrowed. ``"fp32"``,
            ``"fp16"`` (which overflows beyond 65504) or ``"bf16"``: that type, with a warning where the plan advises
            against it.
        error_feedback: add the error of the last record to the next gradient, so that nothing is lost permanently.
            Costs four bytes a coordinate and time to encode. Pauses, with a warning, while records lose more than they
            carry (a relative variance of 1 or more).
        start_at: number of steps at the start of the training that sum gradients exactly; fits scheduled in them are
            done in the first quantised step.
        schedule: when levels are fitted; see ``Schedule.parse``.
        seed: of the stochastic rounding.
        fusion_elements: coordinates that travel together. More: fewer collectives; less overlap with the backward pass
            and of one group's codec with another's way. ``None``: what suits link and codec, where ``break_even``
            measures them; else 131072 a rank, at least 524288, at most 4194304.
        min_elements: smaller gradients are left to the host's exact all-reduce, as are all gradients with fewer than 64
            coordinates. A bucket has one norm, so a scalar with a large gradient would drown its neighbours.
        measure_every: steps between two measurements of this rank's quantisation variance, on which error feedback
            relies.
        codec: ``"auto"`` (``"cuda"`` for gradients on a GPU when cupy is installed, else ``"native"`` when compiled),
            ``"native"``, ``"reference"`` or ``"cuda"``. The bytes are the same, so it may differ between ranks.
        device_records: pass records of GPU gradients to Horovod on the GPU, for NCCL and GPUDirect, instead of through
            pinned host memory. All compressed gradients of all ranks must be on GPUs, and Horovod must have
            been built with NCCL. Not yet run with NCCL.
        timeout: seconds after which an incomplete collective is an error.
        name: prefix of the collectives' names, the same on every rank; a front end whose host pairs collectives by name
            makes it unique.

    Raises:
        ConfigurationError: names the option, its valid values and the value received.
    """

    method: str | Policy
    bits: float | tuple[float, ...]
    bucket_size: int = DEFAULT_BUCKET_SIZE
    norm: Norm | None = None
    clip: float | None = None
    weight_exponent: int | None = None
    zero_level: bool | None = None
    free_ends: bool = False
    rotate: bool | None = None
    correlated: bool | None = None
    dither: bool | None = None
    widths: str = UNIFORM
    exchange: str = kinds.AUTO
    ranks_per_node: int | None = None
    break_even: bool | None = None
    accumulator: str = PLANNED
    error_feedback: bool = False
    start_at: int = 0
    schedule: Schedule | int | Sequence[int] | None = None
    seed: int = 0
    fusion_elements: int | None = None
    min_elements: int = 1024
    measure_every: int = 100
    codec: str = "auto"
    device_records: bool = False
    timeout: float = DEFAULT_TIMEOUT
    name: str = "alq_hvd"

    @classmethod
    def of(cls, method: str | Policy, *, bits: Any = None, bucket_size: int | None = None, **options: Any) -> Options:
        """Return the options of ``method``, where ``None`` stands for its width and for the usual bucket size.

        Raises:
            ConfigurationError: see the class.
            TypeError: for an unknown option.
        """
        unknown = sorted(options.keys() - {field.name for field in fields(cls)})
        if unknown:
            known = ", ".join(field.name for field in fields(cls))
            raise TypeError(f"expected options among {known}, got {', '.join(unknown)}")
        if bits is None:
            bits = usual_bits(method)
        size = DEFAULT_BUCKET_SIZE if bucket_size is None else bucket_size
        return cls(method=method, bits=tuple(bits) if isinstance(bits, Sequence) else bits, bucket_size=size, **options)

    def changed(self, **changes: Any) -> Options:
        """Return these options with other values for some.

        Raises:
            ConfigurationError: see the class; also for ``name``, which stays.
            TypeError: for an unknown option.
        """
        if changes.get("name", self.name) != self.name:
            raise ConfigurationError(f"name: expected it to stay {self.name!r}, got {changes['name']!r}")
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return Options.of(**{**own, **changes})

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        require_int("bucket_size", self.bucket_size, 1, MAXIMUM_BUCKET_SIZE)
        require_int("seed", self.seed, -(2**63), 2**63 - 1)
        if self.fusion_elements is not None:
            require_int("fusion_elements", self.fusion_elements, 1, MAXIMUM_ELEMENTS)
        require_int("min_elements", self.min_elements, 0, MAXIMUM_ELEMENTS)
        require_int("start_at", self.start_at, 0, 2**62)
        require_int("measure_every", self.measure_every, 1, 2**62)
        kinds.kind_of(self.exchange)
        if self.ranks_per_node is not None:
            require_int("ranks_per_node", self.ranks_per_node, 1, 2**20)
        self._check_bits()
        require_type("accumulator", self.accumulator)
        if self.codec not in codecs.NAMES:
            raise ConfigurationError(f"codec: expected one of {', '.join(codecs.NAMES)}, got {self.codec!r}")
        if not isinstance(self.timeout, int | float) or not self.timeout > 0:
            raise ConfigurationError(f"timeout: expected a positive number of seconds, got {self.timeout!r}")
        if not self.name:
            raise ConfigurationError("name: expected a prefix for the names of collectives, got an empty one")
        object.__setattr__(self, "schedule", Schedule.parse(self.schedule))
        for shot in range(len(self.bits_of_shots)):
            self.levels(shot)
        for name, chosen in (("correlated", self.correlated), ("dither", self.dither)):
            if chosen not in (None, True, False):
                raise ConfigurationError(f"{name}: expected True, False or None, got {chosen!r}")
            if chosen and self.resolve().rounding == "nearest":
                raise ConfigurationError(
                    f"{name}: {self.method_name} rounds to nearest and draws no random numbers: leave it out"
                )

    def _check_bits(self) -> None:
        if self.widths not in WIDTHS:
            raise ConfigurationError(f"widths: expected one of {', '.join(WIDTHS)}, got {self.widths!r}")
        given = self.bits if isinstance(self.bits, tuple) else (self.bits,)
        if self.widths == UNIFORM and any(isinstance(bits, float) for bits in given):
            raise ConfigurationError(
                f"bits: expected whole numbers, got {self.bits!r}: use widths='adaptive' for a fractional mean"
            )
        if not isinstance(self.bits, tuple):
            return
        if len(self.bits) != 2:
            raise ConfigurationError(f"bits: expected one width, or one for each of two shots, got {self.bits!r}")
        if self._most_shots == 1:
            raise ConfigurationError(f"bits: {self.exchange} quantises once and takes one width, got {self.bits!r}")

    @property
    def least_elements(self) -> int:
        """Return how many coordinates a gradient has at least that is compressed."""
        return max(self.min_elements, SMALLEST_COMPRESSED)

    @property
    def bits_of_shots(self) -> tuple[float, ...]:
        """Return the width of a code, or the mean of its widths, in each shot that the exchange may take."""
        if isinstance(self.bits, tuple):
            return self.bits
        return (self.bits,) * self._most_shots

    @property
    def _most_shots(self) -> int:
        kind = kinds.kind_of(self.exchange)
        return kinds.MOST_SHOTS if kind is None else kind.shots

    @property
    def method_name(self) -> str:
        """Return what ranks, states and logs call the method."""
        return name_of(self.method)

    @property
    def plain_bits(self) -> float | list[float]:
        """Return ``bits`` as json writes and reads them."""
        return list(self.bits) if isinstance(self.bits, tuple) else self.bits

    def resolve(self, shot: int = 0) -> Method:
        """Return the method with its norm, clip, first levels and policy: at the largest width, where they differ."""
        return self._at(MAXIMUM_BITS if self.widths == ADAPTIVE else cast(int, self.bits_of_shots[shot]))

    def _at(self, bits: int) -> Method:
        return method(
            self.method,
            bits=bits,
            norm=self.norm,
            clip=self.clip,
            weight_exponent=self.weight_exponent,
            zero_level=self.zero_level,
            free_ends=self.free_ends,
            rotate=self.rotate,
        )

    def quantiser(self, shot: int = 0) -> QuantiserConfig:
        """Return how coordinates become codes in ``shot``."""
        return replace(self._undithered(shot), dither=self.dithers(shot))

    def _undithered(self, shot: int) -> QuantiserConfig:
        method, bits = self.resolve(shot), self.bits_of_shots[shot]
        if self.widths == UNIFORM:
            return method.quantiser(cast(int, bits), self.bucket_size)
        return replace(method.quantiser(MAXIMUM_BITS, self.bucket_size), budget=bits)

    def levels(self, shot: int = 0) -> tuple[Policy, AnyLevels]:
        """Return what fits the levels of ``shot``, and those until then."""
        if self.widths == UNIFORM:
            method = self.resolve(shot)
            return method.policy, method.initial(cast(int, self.bits_of_shots[shot]))
        lowest = lowest_adaptive_width(self.method, self.rotate, self.zero_level)
        methods = [self._at(bits) for bits in range(lowest, MAXIMUM_BITS + 1)]
        tables = [method.initial(bits) for bits, method in enumerate(methods, lowest)]
        policy = ByWidth(tuple(method.policy for method in methods), methods[0].rounding)
        return policy, initial_tables(tables, self._undithered(shot))

    def dithers(self, shot: int) -> bool:
        """Return whether receivers of ``shot`` take a dither away: of one in which each rank draws for itself."""
        method = self.resolve(shot)
        if not shot or method.rounding == "nearest" or method.exact:
            return False
        # Tables of all widths hold a zero, or none does.
        return bool(self.levels(shot)[1].values.all()) if self.dither is None else self.dither

    @property
    def correlates(self) -> bool:
        """Return whether ranks share out what rounding draws."""
        return self.correlated is not False and self.resolve().rounding == "stochastic"

    def parsed_schedule(self) -> Schedule:
        """Return the schedule as what it was parsed to."""
        return Schedule.parse(self.schedule)

    def shared(self) -> dict[str, Any]:
        """Return the options on which all ranks must agree, as plain values."""
        schedule = asdict(self.parsed_schedule())
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        plain |= {"method": self.method_name, "schedule": schedule}
        for local in ("codec", "timeout", "measure_every"):
            del plain[local]
        return plain


def _plain(value: Any) -> Any:
    """Return a scalar of NumPy or torch as the number of Python that it is; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
