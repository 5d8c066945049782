"""The C++ codec: the arithmetic of ``csrc/quantise.h``, vectorised for the processor it finds itself on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import ModuleType

import numpy as np

from alq_hvd import backends
from alq_hvd.codec.arguments import require_decodable, require_encodable, require_values
from alq_hvd.codec.arrays import FloatArray, HostArrays, Record
from alq_hvd.codec.base import Codec
from alq_hvd.codec.keys import StreamKey
from alq_hvd.codec.rotation import rotation_words, sign_key
from alq_hvd.codec.strata import draws_words, polynomial_of
from alq_hvd.errors import ConfigurationError
from alq_hvd.quantiser.config import QuantiserConfig, require_int
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.levels_by_width import AnyLevels, LevelsByWidth
from alq_hvd.quantiser.record import HEADER, RecordLayout, Stamp, seal
from alq_hvd.quantiser.statistics import BINS_PER_OCTAVE_LOG2, OCTAVES, GradientStatistics
from alq_hvd.quantiser.widths import Ladder


@dataclass(frozen=True, slots=True)
class NativeCodec(Codec[FloatArray, Record]):
    """Encode and decode on the CPU at a good part of the speed of memory.

    Attributes:
        instruction_set: one of ``instruction_sets()``; by default the fastest this processor has.
        threads: how many threads share one encode or decode_sum; the bytes do not depend on it. A training process
            that has other work for its cores wants 1, an idle machine all of them.

    Raises:
        BackendUnavailable: when the extension was not compiled.
        ConfigurationError: when this processor lacks the instruction set, or threads is not 1 to 1024.
    """

    instruction_set: str = ""
    threads: int = 1
    name: str = "native"
    arrays: HostArrays = field(default_factory=HostArrays, repr=False)
    _native: ModuleType = field(default_factory=backends.native_codec, repr=False)

    def __post_init__(self) -> None:
        require_int("threads", self.threads, 1, 1024)
        supported = self._native.instruction_sets()
        chosen = self.instruction_set or supported[-1]
        if chosen not in supported:
            raise ConfigurationError(f"instruction_set: expected one of {', '.join(supported)}, got {chosen!r}")
        object.__setattr__(self, "instruction_set", chosen)

    def encode(
        self,
        values: FloatArray,
        layout: RecordLayout,
        levels: AnyLevels,
        key: StreamKey,
        stamp: Stamp,
        residual: FloatArray | None = None,
    ) -> Record:
        """Return the sealed record of ``values``; see ``Codec.encode``."""
        require_encodable(values, layout, levels, key, residual)
        config = layout.quantiser
        record, signs = layout.new_record(), sign_key(key, config)
        layout.rotation(record)[:] = rotation_words(key, config)
        layout.draws(record)[:] = draws_words(key, config)
        if isinstance(levels, LevelsByWidth):
            self._encode_by_width(values, record, layout, levels, key, stamp, residual)
            return record
        check = self._native.encode(
            self.instruction_set,
            values,
            record,
            norms_offset=layout.norms_offset,
            codes_offset=layout.codes_offset,
            bits=config.bits,
            bucket_size=config.bucket_size,
            maximum_norm=config.norm == "linf",
            clip=config.clip or 0.0,
            levels=levels.values,
            inverse_gaps=levels.inverse_gaps,
            key_first=key.first,
            key_second=key.second,
            first_element=key.first_element,
            threads=self.threads,
            rounds=config.rounds,
            reach=_reach(config),
            signs_first=signs.first,
            signs_second=signs.second,
            strata=(*key.strata, polynomial_of(key.strata.parts)),
            dither=_dither(config, levels),
            residual=residual,
        )
        named = record[HEADER.size : layout.norms_offset].view("<u4")
        seal(record, layout, stamp, (check + int(named.sum(dtype=np.uint32))) % 2**32)
        return record

    def _encode_by_width(
        self,
        values: FloatArray,
        record: Record,
        layout: RecordLayout,
        levels: LevelsByWidth,
        key: StreamKey,
        stamp: Stamp,
        residual: FloatArray | None,
    ) -> None:
        config, signs = layout.quantiser, sign_key(key, layout.quantiser)
        ladder = _ladder(levels, residual is None)
        check = self._native.encode_widths(
            self.instruction_set,
            values,
            record,
            norms_offset=layout.norms_offset,
            widths_offset=layout.widths_offset,
            codes_offset=layout.codes_offset,
            rows=layout.word_rows,
            bucket_size=config.bucket_size,
            maximum_norm=config.norm == "linf",
            clip=config.clip or 0.0,
            tables=_tables(config, levels),
            base=ladder.base,
            steps=ladder.steps,
            keeps_all=ladder.keeps_all,
            key_first=key.first,
            key_second=key.second,
            first_element=key.first_element,
            threads=self.threads,
            rounds=config.rounds,
            signs_first=signs.first,
            signs_second=signs.second,
            strata=(*key.strata, polynomial_of(key.strata.parts)),
            residual=residual,
        )
        told = (record[HEADER.size : layout.norms_offset], record[layout.widths_offset : layout.codes_offset])
        named = sum(int(part.view("<u4").sum(dtype=np.uint32)) for part in told)
        seal(record, layout, stamp, (check + named) % 2**32)

    def decode_sum(
        self,
        records: Sequence[Record],
        layout: RecordLayout,
        levels: AnyLevels,
        stamps: Sequence[Stamp],
        scale: float,
        out: FloatArray | None = None,
    ) -> FloatArray:
        """Return the scaled sum of the decoded records; see ``Codec.decode_sum``."""
        require_decodable(records, layout, levels, stamps)
        if out is None:
            out = np.empty(layout.elements, dtype=np.float32)
        require_values(out, layout.elements)
        if isinstance(levels, LevelsByWidth):
            self._native.decode_sum_widths(
                self.instruction_set,
                list(records),
                out,
                norms_offset=layout.norms_offset,
                widths_offset=layout.widths_offset,
                codes_offset=layout.codes_offset,
                rows=layout.word_rows,
                bucket_size=layout.quantiser.bucket_size,
                tables=_tables(layout.quantiser, levels),
                scale=scale,
                threads=self.threads,
                rounds=layout.quantiser.rounds,
            )
            return out
        self._native.decode_sum(
            self.instruction_set,
            list(records),
            out,
            norms_offset=layout.norms_offset,
            codes_offset=layout.codes_offset,
            bits=layout.quantiser.bits,
            bucket_size=layout.quantiser.bucket_size,
            levels=levels.values,
            inverse_gaps=levels.inverse_gaps,
            scale=scale,
            threads=self.threads,
            rounds=layout.quantiser.rounds,
            dither=_dither(layout.quantiser, levels),
        )
        return out

    def raise_for_damage(self) -> None:
        """Do nothing: ``decode_sum`` raises at once."""

    def statistics(self, values: FloatArray, config: QuantiserConfig, weight_exponent: int) -> GradientStatistics:
        """Return the summary of the normalised coordinates of ``values``."""
        require_values(values)
        mass, first_moment, moments = self._native.statistics(
            self.instruction_set,
            values,
            bucket_size=config.bucket_size,
            maximum_norm=config.norm == "linf",
            clip=config.clip or 0.0,
            weight_exponent=weight_exponent,
            octaves=OCTAVES,
            bins_per_octave_log2=BINS_PER_OCTAVE_LOG2,
            rounds=config.rounds,
            reach=_reach(config),
        )
        return GradientStatistics.from_bucket_sums(
            moments,
            mass,
            first_moment,
            elements=len(values),
            bucket_size=config.bucket_size,
            weight_exponent=weight_exponent,
        )


@lru_cache(maxsize=16)  # of the shots in use: making them at every call takes as long as a small group
def _tables(config: QuantiserConfig, levels: LevelsByWidth) -> list[tuple[int, FloatArray, FloatArray, float, float]]:
    """Return width, levels, inverse gaps, dither and reach of every table."""
    every = [(width, config.at(width), levels.at(width)) for width in levels.widths]
    return [
        (width, table.values, table.inverse_gaps, _dither(config, table), _reach(own)) for width, own, table in every
    ]


@lru_cache(maxsize=16)
def _ladder(levels: LevelsByWidth, keeps_all: bool) -> Ladder:
    return Ladder.of(levels, keeps_all)


def _dither(config: QuantiserConfig, levels: Levels) -> float:
    """Return the width of the dither that a receiver takes away; 0 for none."""
    return float(levels.dither) if config.dither else 0.0


def _reach(config: QuantiserConfig) -> float:
    """Return ``config.reach`` in rounding to the nearest, else 0, which stands for stochastic rounding."""
    return config.reach if config.rounding == "nearest" else 0.0


def instruction_sets() -> list[str]:
    """Return the instruction sets this processor supports, slowest first."""
    names: list[str] = backends.native_codec().instruction_sets()
    return names
