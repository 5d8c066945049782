"""What every codec refuses to be called with, said the same way by all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alq_hvd.codec.arrays import FloatArray, Record
from alq_hvd.codec.keys import StreamKey
from alq_hvd.errors import ConfigurationError, UnsupportedTensor, WireFormatError
from alq_hvd.quantiser.levels_by_width import AnyLevels, LevelsByWidth
from alq_hvd.quantiser.record import RecordLayout, Stamp, verify


def require_values(values: FloatArray, elements: int | None = None) -> None:
    """Raise ``UnsupportedTensor`` unless ``values`` is contiguous float32[elements]."""
    right = isinstance(values, np.ndarray) and values.dtype == np.float32 and values.ndim == 1
    if not right or not values.flags.c_contiguous or elements not in (None, values.size):
        raise UnsupportedTensor(
            f"expected contiguous float32[{'n' if elements is None else elements}], got {_described(values)}: "
            "flatten, convert and copy it first"
        )


def require_encodable(
    values: FloatArray, layout: RecordLayout, levels: AnyLevels, key: StreamKey, residual: FloatArray | None = None
) -> None:
    """Raise ``AlqError`` unless ``values``, and ``residual`` if any, fit ``layout``, and ``levels`` and ``key`` do."""
    require_values(values, layout.elements)
    if residual is not None:
        require_values(residual, layout.elements)
    layout.quantiser.require_fit(levels)
    require_alone(layout, key)


def require_alone(layout: RecordLayout, key: StreamKey) -> None:
    """Raise ``ConfigurationError`` where a dither is asked of a rank that rounds together with others."""
    if layout.quantiser.dither and key.strata.parts > 1:
        raise ConfigurationError(
            f"dither: expected a rank that draws for itself, got one of {key.strata.parts} strata: records tell none"
        )


def require_decodable(
    records: Sequence[Record], layout: RecordLayout, levels: AnyLevels, stamps: Sequence[Stamp]
) -> None:
    """Raise ``AlqError`` unless every record is whole and was encoded under ``layout``, ``levels`` and its stamp."""
    layout.quantiser.require_fit(levels)
    if len(records) != len(stamps):
        raise ConfigurationError(f"expected one stamp a record, got {len(stamps)} stamps and {len(records)} records")
    for record, stamp in zip(records, stamps, strict=True):
        verify(record, layout, stamp)
        if isinstance(levels, LevelsByWidth):
            widths = layout.widths(record)
            if ((widths > 0) & (widths < levels.lowest)).any():
                raise WireFormatError(
                    f"record from rank {stamp.sender} at step {stamp.step}: expected widths of 0 or {levels.lowest} to "
                    f"8 bits, got {int(widths[widths > 0].min())}: the bytes were damaged on the way"
                )


def _described(values: object) -> str:
    if not isinstance(values, np.ndarray):
        return type(values).__name__
    return f"{values.dtype}{list(values.shape)}{'' if values.flags.c_contiguous else ', not contiguous'}"
