"""The one registry: the name of a method -> its norm, first levels and policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.config import NORMS, Norm, QuantiserConfig, Rounding, require_int
from alq_hvd.quantiser.levels import MAXIMUM_BITS, Levels
from alq_hvd.quantiser.policies import Alq, AlqGradient, Amq, Optimal, Policy, fixed
from alq_hvd.quantiser.policies.lloyd_max import lloyd_max


@dataclass(frozen=True, slots=True)
class Method:
    """Say how one method scales a bucket, with which levels it starts, and how it adapts them.

    Attributes:
        name: as in ``NAMES``.
        norm: scale of a bucket.
        initial: bits -> the table in use until the first adaptation.
        policy: what fits the next tables.
        clip: standard deviations to which a bucket is clamped before its norm is taken; ``None`` does not clamp.
        minimum_bits: smallest defined width of a code.
        maximum_bits: largest defined width of a code.
        description: one line for tables and ``--help``.
        exact: gradients travel as float32 and are not quantised at all.
        rotate: rotate every bucket before it is quantised.
        rounding: how a coordinate between two levels becomes one of them.
    """

    name: str
    norm: Norm
    initial: Callable[[int], Levels]
    policy: Policy
    clip: float | None
    minimum_bits: int
    maximum_bits: int
    description: str
    exact: bool = False
    rotate: bool = False
    rounding: Rounding = "stochastic"

    def quantiser(self, bits: int, bucket_size: int) -> QuantiserConfig:
        """Return how coordinates become codes of ``bits`` in buckets of ``bucket_size``."""
        return QuantiserConfig(bits, bucket_size, self.norm, self.clip, self.rotate, self.rounding)


@dataclass(frozen=True, slots=True)
class _Options:
    weight_exponent: int
    zero_level: bool
    free_ends: bool


@dataclass(frozen=True, slots=True)
class _Entry:
    """Describe one method: what it takes by default, and which options mean something to it.

    Attributes:
        zero_from: the least bits at which its table holds a zero by default, where buckets are not rotated; ``None``
            where a table cannot be told to. See docs/decisions/0014-zeros-stay-zero.md.
    """

    description: str
    norm: Norm
    policy: Callable[[_Options], Policy]
    initial: Callable[[_Options], Callable[[int], Levels]]
    weight_exponents: tuple[int, ...] = ()
    zero_from: int | None = 2
    free_ends: bool = False
    clip: float | None = None
    bits: tuple[int, int] = (1, MAXIMUM_BITS)
    exact: bool = False
    norms: tuple[Norm, ...] = NORMS
    rotations: tuple[bool, ...] = (False, True)
    rounding: Rounding = "stochastic"


def _fixed(_: _Options) -> Policy:
    return fixed.Fixed()


def _uniform(options: _Options) -> Callable[[int], Levels]:
    return partial(fixed.uniform, zero_level=options.zero_level)


def _exponential(options: _Options) -> Callable[[int], Levels]:
    return partial(fixed.exponential, zero_level=options.zero_level)


def _spread(options: _Options) -> Callable[[int], Levels]:
    return partial(fixed.spread_exponential, zero_level=options.zero_level)


def _ternary(_: _Options) -> Callable[[int], Levels]:
    return lambda bits: fixed.ternary()


def _lloyd_max(_: _Options) -> Callable[[int], Levels]:
    return lloyd_max


def _alq(options: _Options) -> Policy:
    return Alq(options.weight_exponent, options.zero_level)


def _alq_gradient(options: _Options) -> Policy:
    return AlqGradient(options.weight_exponent)


def _amq(options: _Options) -> Policy:
    return Amq(options.weight_exponent)


def _optimal(options: _Options) -> Policy:
    return Optimal(options.weight_exponent, options.zero_level, options.free_ends)


_WEIGHTED, _UNWEIGHTED = (2, 1, 0), (0,)
_REGISTRY: dict[str, _Entry] = {
    "alq": _Entry("coordinate descent on truncated normals, buckets weigh norm^2", "l2", _alq, _spread, _WEIGHTED,
                  zero_from=3),
    "alq_n": _Entry("ALQ with every bucket weighing the same", "l2", _alq, _spread, _UNWEIGHTED,
                    zero_from=3),
    "alqg": _Entry("projected gradient steps on the model of ALQ", "l2", _alq_gradient, _spread, _WEIGHTED,
                   zero_from=3),
    "alqg_n": _Entry("ALQG with every bucket weighing the same", "l2", _alq_gradient, _spread, _UNWEIGHTED,
                     zero_from=3),
    "amq": _Entry("levels +-p^j, p fitted to the model of ALQ", "l2", _amq, _spread, _WEIGHTED,
                  zero_from=3),
    "amq_n": _Entry("AMQ with every bucket weighing the same", "l2", _amq, _spread, _UNWEIGHTED,
                    zero_from=3),
    "qsgd": _Entry("equally spaced levels, Euclidean norm", "l2", _fixed, _uniform),
    "qsgdinf": _Entry("equally spaced levels, largest magnitude as norm", "linf", _fixed, _uniform),
    "nuqsgd": _Entry("levels at powers of 1/2; zero_level=True is the quantiser its theory describes", "l2", _fixed,
                     _exponential),
    "terngrad": _Entry("three levels -1, 0, 1 (log2(3) = 1.585 bits, packed in 2), clipped at 2.5 deviations", "linf",
                       _fixed, _ternary, zero_from=None, clip=2.5, bits=(2, 2)),
    "optimal": _Entry("least variance on the gradients as they are: dynamic programming on their histogram", "linf",
                      _optimal, _spread, _WEIGHTED, free_ends=True),
    "eden": _Entry("rotated twice, rounded to the nearest of the levels best for normals, unbiased scale", "l2", _fixed,
                   _lloyd_max, zero_from=None, norms=("l2",), rotations=(True,), rounding="nearest"),
    "none": _Entry("exact float32 mean through the same path", "linf", _fixed, _uniform, zero_from=None,
                   bits=(1, 32), exact=True, rotations=(False,)),
}  # fmt: skip
NAMES: tuple[str, ...] = tuple(_REGISTRY)
USUAL_BITS = 3


def bits_of(name: str) -> tuple[int, int]:
    """Return the smallest and the largest width of a code at which a method is defined, without a zero level.

    Raises:
        ConfigurationError: for an unknown name.
    """
    return _entry(name).bits


def rotations_of(name: str) -> tuple[bool, ...]:
    """Return which values of ``rotate`` a method takes, its own default first.

    Raises:
        ConfigurationError: for an unknown name.
    """
    return _entry(name).rotations


def lowest_adaptive_width(name: str | Policy, rotate: bool | None, zero_level: bool | None) -> int:
    """Return the smallest width that codes of a method may have where every block has its own.

    That is one at which all tables hold a zero, where zeros shall stay zero, and else 1.

    Raises:
        ConfigurationError: for an unknown name, or a method that has not all widths.
    """
    entry = _entry(name)
    if entry.exact or entry.bits != (1, MAXIMUM_BITS):
        able = ", ".join(each for each, other in _REGISTRY.items() if other.bits == (1, MAXIMUM_BITS))
        raise ConfigurationError(
            f"widths: expected a method of 1 to {MAXIMUM_BITS} bits with adaptive widths ({able}), got {name_of(name)}"
        )
    rotated = entry.rotations[0] if rotate is None else rotate
    if entry.zero_from is None or zero_level is False or (rotated and not zero_level):
        return 1
    return 2 if zero_level else entry.zero_from


def name_of(method: str | Policy) -> str:
    """Return the name of a method; that of a policy of the user's own is what it prints as."""
    return method if isinstance(method, str) else repr(method)


def usual_bits(name: str | Policy) -> int:
    """Return the width that ``name`` gets by default: 3, or the one that it is defined for.

    Raises:
        ConfigurationError: there is no such method.
    """
    return min(USUAL_BITS, _entry(name).bits[1])


def method(
    name: str | Policy,
    *,
    bits: int,
    norm: Norm | None = None,
    clip: float | None = None,
    weight_exponent: int | None = None,
    zero_level: bool | None = None,
    free_ends: bool = False,
    rotate: bool | None = None,
) -> Method:
    """Return the method ``name`` for codes of ``bits``; ``None`` stands for the method's own default.

    Args:
        name: one of ``NAMES``, or a policy of the user's own, which starts from equally spaced levels in buckets scaled
            by their largest magnitude.
        bits: width of a code; the method must be defined there.
        norm: ``"l2"`` or ``"linf"``.
        clip: standard deviations, 2.5 and 3 are usual; ``math.inf`` switches a method's own clipping off.
        weight_exponent: power of a bucket's norm by which its coordinates weigh: 2 derived, 1 as in the authors' code.
        zero_level: hold a level that is exactly zero. By default where it keeps zeros zero and costs little: from 2
            bits on, in the methods of the ALQ paper from 3, and not in rotated buckets, where it would keep nothing.
        free_ends: let the outermost levels leave -1 and 1 and clamp what lies beyond, a bias.
        rotate: make every bucket look normal first; ``eden`` always does.

    Raises:
        ConfigurationError: for an unknown name, an undefined width, a value out of range, or an option that the
            method does not have; the message lists what is valid.
    """
    entry, name = _entry(name), name_of(name)
    low, high = max(entry.bits[0], 2 if zero_level else 1), entry.bits[1]
    try:
        require_int("bits", bits, low, high)
    except ConfigurationError:
        defined = f"{low} bits only" if low == high else f"{low} to {high} bits"
        zero = " with a zero level" if zero_level else ""
        raise ConfigurationError(f"bits: {name}{zero} is defined at {defined}, got {bits!r}") from None
    if norm is not None and norm not in NORMS:
        raise ConfigurationError(f"norm: expected one of {', '.join(NORMS)}, got {norm!r}")
    if clip is not None and not clip > 0:
        raise ConfigurationError(f"clip: expected a positive number of standard deviations, got {clip!r}")
    if weight_exponent is not None and weight_exponent not in entry.weight_exponents:
        _refuse(name, "weight_exponent", weight_exponent, entry.weight_exponents)
    if zero_level and entry.zero_from is None:
        _refuse(name, "zero_level", True, (False,))
    if free_ends and not entry.free_ends:
        _refuse(name, "free_ends", True, (False,))
    if norm is not None and norm not in entry.norms:
        _refuse(name, "norm", norm, entry.norms)
    if rotate is not None and rotate not in entry.rotations:
        _refuse(name, "rotate", rotate, entry.rotations)
    rotated = entry.rotations[0] if rotate is None else rotate
    if zero_level is None:
        zero_level = entry.zero_from is not None and bits >= entry.zero_from and not rotated
    exponent = weight_exponent if weight_exponent is not None else (*entry.weight_exponents, 0)[0]
    options = _Options(exponent, zero_level, free_ends)
    chosen = entry.clip if clip is None else clip
    return Method(
        name=name,
        norm=norm or entry.norm,
        initial=entry.initial(options),
        policy=entry.policy(options),
        clip=None if chosen == math.inf else chosen,
        minimum_bits=low,
        maximum_bits=high,
        description=entry.description,
        exact=entry.exact,
        rotate=rotated,
        rounding=entry.rounding,
    )


def _entry(name: str | Policy) -> _Entry:
    if not isinstance(name, str):
        return _of_policy(name)
    if name not in _REGISTRY:
        raise ConfigurationError(f"method: expected one of {', '.join(NAMES)}, got {name!r}")
    return _REGISTRY[name]


def _of_policy(policy: Policy) -> _Entry:
    """Return the entry of a policy of the user's own."""
    missing = [part for part in ("adapts", "weight_exponent", "update") if not hasattr(policy, part)]
    if missing:
        raise ConfigurationError(
            f"method: expected one of {', '.join(NAMES)}, or a policy, got {policy!r} without {', '.join(missing)}: "
            "see alq_hvd.quantiser.policies.Policy"
        )
    exponents = (policy.weight_exponent,)
    return _Entry("a policy of the user's own", "linf", lambda _: policy, _uniform, exponents)


def _refuse(name: str, option: str, got: object, valid: tuple[object, ...]) -> None:
    if not valid:
        raise ConfigurationError(f"{option}: {name} has no such option, leave it out (got {got!r})")
    expected = " or ".join(repr(value) for value in valid)
    raise ConfigurationError(f"{option}: {name} takes {expected}, got {got!r}")
