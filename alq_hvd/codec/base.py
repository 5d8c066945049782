"""What a codec is: values to records, records to values, values to statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from alq_hvd.codec.arrays import Arrays, B, Bytes, FloatArray, Record, V, Values
from alq_hvd.codec.keys import StreamKey
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels_by_width import AnyLevels
from alq_hvd.quantiser.record import RecordLayout, Stamp
from alq_hvd.quantiser.statistics import GradientStatistics

__all__ = ["Arrays", "B", "Bytes", "Codec", "FloatArray", "Record", "V", "Values"]


class Codec(Protocol[V, B]):
    """Turn fusion groups into records and back. Every implementation gives the same bytes.

    Shapes: values float32[elements], contiguous; a record uint8[layout.record_bytes]. Where they lie, ``arrays`` says.
    """

    @property
    def name(self) -> str:
        """Return the name of the implementation: reference, native or cuda."""
        ...

    @property
    def arrays(self) -> Arrays[V, B]:
        """Return how to make and move the arrays that this codec takes and gives."""
        ...

    def encode(
        self,
        values: V,
        layout: RecordLayout,
        levels: AnyLevels,
        key: StreamKey,
        stamp: Stamp,
        residual: V | None = None,
    ) -> B:
        """Return the sealed record of ``values``.

        A bucket with NaN or infinity gets norm NaN and decodes to NaN; one whose norm is zero (or below the smallest
        normal float32) decodes to zeros.

        Args:
            residual: float32[elements], for error feedback: it is added to the values before they are quantised, and
                overwritten with what the record lacks of the sum, or with zero where that is not finite.
        """
        ...

    def decode_sum(
        self,
        records: Sequence[B],
        layout: RecordLayout,
        levels: AnyLevels,
        stamps: Sequence[Stamp],
        scale: float,
        out: V | None = None,
    ) -> V:
        """Return float32[elements]: ``scale`` times the sum of the decoded records, added in the order given.

        The sum is written to ``out`` when one is given: a fresh array of many megabytes costs as much as decoding.

        Raises:
            WireFormatError: when a record is damaged or was encoded under another configuration; on a device, where
                nothing waits for decoding, ``raise_for_damage`` raises it.
        """
        ...

    def recode(
        self,
        records: Sequence[B],
        layout: RecordLayout,
        levels: AnyLevels,
        stamps: Sequence[Stamp],
        room: V,
        again: RecordLayout,
        levels_again: AnyLevels,
        key: StreamKey,
        stamp: Stamp,
    ) -> B:
        """Return the record, under ``again``, of the sum of ``records``: the middle of a two-shot.

        Args:
            room: values that are no longer needed, in whose memory the sum may be made.
        """
        total = self.decode_sum(records, layout, levels, stamps, 1.0, self.arrays.room_for_sum(room))
        return self.encode(total, again, levels_again, key, stamp)

    def raise_for_damage(self) -> None:
        """Raise ``WireFormatError`` if a record decoded since the last call was damaged; on a device this waits."""
        ...

    def statistics(self, values: V, config: QuantiserConfig, weight_exponent: int) -> GradientStatistics:
        """Return the summary of the normalised coordinates of ``values``: rotated, where ``config`` says so.

        All ranks and steps rotate by the same signs here: only the distribution of the result is of interest.
        """
        ...
