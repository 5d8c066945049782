"""What a codec is: arrays to records, records to arrays, arrays to statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from alq_hvd.codec.keys import StreamKey
from alq_hvd.config import QuantiserConfig
from alq_hvd.levels import Levels
from alq_hvd.statistics import GradientStatistics
from alq_hvd.wire import RecordLayout, Stamp

FloatArray = npt.NDArray[np.float32]
Record = npt.NDArray[np.uint8]


class Codec(Protocol):
    """Turn fusion groups into records and back. Every implementation gives the same bytes.

    Shapes: values float32[elements], contiguous; a record uint8[layout.record_bytes].
    """

    @property
    def name(self) -> str:
        """Return the name of the implementation: reference, native or cuda."""
        ...

    def encode(self, values: FloatArray, layout: RecordLayout, levels: Levels, key: StreamKey, stamp: Stamp) -> Record:
        """Return the sealed record of ``values``.

        A bucket with NaN or infinity gets norm NaN and decodes to NaN; one whose norm is zero (or below the smallest
        normal float32) decodes to zeros.
        """
        ...

    def decode_sum(
        self,
        records: Sequence[Record],
        layout: RecordLayout,
        levels: Levels,
        stamps: Sequence[Stamp],
        scale: float,
        out: FloatArray | None = None,
    ) -> FloatArray:
        """Return float32[elements]: ``scale`` times the sum of the decoded records, added in the order given.

        The sum is written to ``out`` when one is given: a fresh array of many megabytes costs as much as decoding.

        Raises:
            WireFormatError: when a record is damaged or was encoded under another configuration.
        """
        ...

    def statistics(self, values: FloatArray, config: QuantiserConfig, weight_exponent: int) -> GradientStatistics:
        """Return the summary of the normalised coordinates of ``values``: rotated, where ``config`` says so.

        All ranks and steps rotate by the same signs here: only the distribution of the result is of interest.
        """
        ...
