"""What the CUDA kernels of ``cuda/codec.cu`` are called: the one place that knows their template arguments."""

from __future__ import annotations

from collections.abc import Iterable

from alq_hvd.quantiser.config import QuantiserConfig

TYPES = {"torch.float32": "float", "torch.float16": "alq::Half", "torch.bfloat16": "alq::Brain"}
"""Element types of the kernels, by what PyTorch calls the dtype."""
BEGIN_RECORD, FINISH_DECODE = "alq::begin_record", "alq::finish_decode"
SHARE_OUT, PLACE_RECORDS = "alq::share_out", "alq::place_records"
LAST_WIDTH = 8


def encode(kind: str, config: QuantiserConfig) -> str:
    """Return the kernel that encodes tensors of ``kind`` in one reading."""
    if config.rotate:
        return f"alq::encode_rotated<{kind}, {config.bits}, {_flag(config.rounding == 'nearest')}>"
    return f"alq::encode<{kind}, {config.bits}>"


def decode(kind: str, config: QuantiserConfig) -> str:
    """Return the kernel that sums records into tensors of ``kind`` in one reading."""
    name = "decode_rotated" if config.rotate else "decode_sum"
    return f"alq::{name}<{kind}, {config.bits}, {_flag(config.dither)}>"


def encode_by_width(kind: str, config: QuantiserConfig) -> str:
    """Return the kernel that encodes tensors of ``kind`` whose blocks have widths."""
    if config.rotate:
        return f"alq::encode_rotated_by_width<{kind}, {_flag(config.rounding == 'nearest')}>"
    return f"alq::encode_by_width<{kind}>"


def decode_by_width(kind: str, config: QuantiserConfig) -> str:
    """Return the kernel that sums records whose blocks have widths into tensors of ``kind``."""
    name = "decode_rotated_by_width" if config.rotate else "decode_by_width"
    return f"alq::{name}<{kind}, {_flag(config.dither)}>"


def sum_run(config: QuantiserConfig) -> str:
    """Return the kernel that sums neighbours of the same signs, to be rotated back by another."""
    return f"alq::sum_run<{config.bits}, {_flag(config.dither)}>"


def recode(bits: int, again: int) -> str:
    """Return the kernel that sums records of ``bits`` and encodes the sum with ``again``."""
    return f"alq::recode<{bits}, {again}>"


def of_kind(name: str, kind: str) -> str:
    """Return ``bucket_norms``, ``block_energies`` or ``statistics`` of tensors of ``kind``."""
    return f"alq::{name}<{kind}>"


def projection_scales(bits: int) -> str:
    """Return the kernel that finds what is sent in place of norms in rounding to the nearest."""
    return f"alq::projection_scales<{bits}>"


def with_norms(kind: str, bits: int) -> str:
    """Return the kernel that encodes tensors of ``kind`` whose norms are known."""
    return f"alq::encode_with_norms<{kind}, {bits}>"


def in_workplace(name: str, kind: str, fits: bool) -> str:
    """Return ``rotate_group``, ``keep_lost`` or ``add_run``, in shared memory where buckets fit it."""
    return f"alq::{name}<{kind}, {_flag(fits)}>"


def every(widths: Iterable[int], kinds: Iterable[str]) -> list[str]:
    """Return all kernels that codes of ``widths`` and tensors of ``kinds`` may need, whatever else is asked for."""
    names, widths = [BEGIN_RECORD, FINISH_DECODE, SHARE_OUT, PLACE_RECORDS], sorted(set(widths))
    for kind in dict.fromkeys(("float", *kinds)):  # what is rotated in device memory is read again as float32
        names += [of_kind(name, kind) for name in ("bucket_norms", "statistics", "block_energies")]
        for config in _ways(LAST_WIDTH):
            names += [encode_by_width(kind, config), decode_by_width(kind, config)]
        for fits in (True, False):
            names += [in_workplace(name, kind, fits) for name in ("rotate_group", "keep_lost", "add_run")]
        for bits in widths:
            names += [with_norms(kind, bits)]
            for config in _ways(bits):
                names += [encode(kind, config), decode(kind, config)]
    for bits in widths:
        names += [projection_scales(bits), *(sum_run(config) for config in _ways(bits))]
        names += [recode(bits, again) for again in (bits, LAST_WIDTH)]
    return list(dict.fromkeys(names))


def _ways(bits: int) -> tuple[QuantiserConfig, ...]:
    drawn = [
        QuantiserConfig(bits, 1024, rotate=rotate, dither=dither)
        for rotate in (False, True)
        for dither in (False, True)
    ]
    return *drawn, QuantiserConfig(bits, 1024, rotate=True, rounding="nearest")


def _flag(value: bool) -> str:
    return "true" if value else "false"
