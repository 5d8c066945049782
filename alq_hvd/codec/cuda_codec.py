"""The GPU codec: CUDA tensors to records and back, with the bytes of the reference codec and without waiting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from alq_hvd import backends
from alq_hvd.codec import cuda_buckets, cuda_host, cuda_names, cuda_structs, cuda_widths
from alq_hvd.codec.arguments import require_alone
from alq_hvd.codec.base import Codec
from alq_hvd.codec.cuda_arguments import Memory, placed, require_records, require_residual
from alq_hvd.codec.cuda_damage import Damage
from alq_hvd.codec.cuda_device import CudaDevice, Device, Tensor
from alq_hvd.codec.cuda_kernels import WARPS
from alq_hvd.codec.cuda_stream import StreamOrder
from alq_hvd.codec.device_arrays import DeviceArrays, DeviceValues, Parts
from alq_hvd.codec.keys import INDEPENDENT, Strata, StreamKey
from alq_hvd.codec.rotation import sign_key
from alq_hvd.codec.strata import PERIOD
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.levels_by_width import AnyLevels, LevelsByWidth
from alq_hvd.quantiser.record import LANES, RecordLayout, Stamp
from alq_hvd.quantiser.statistics import BINS, BINS_PER_OCTAVE_LOG2, BINS_PER_SIDE, OCTAVES, GradientStatistics


@dataclass(frozen=True, slots=True)
class CudaCodec(Codec[DeviceValues, Tensor]):
    """Encode and decode CUDA tensors on PyTorch's current stream.

    It is a ``Codec`` of CUDA tensors: values are one tensor, or the tensors of a fusion group one after another,
    float32, float16 or bfloat16; a record is torch.uint8[layout.record_bytes]. Nothing is copied to the host and
    nothing waits, so a damaged record is found by ``raise_for_damage``. What is started keeps the order of the calls,
    whichever stream is current. Tables of levels and of addresses are
    copied to the device when they change; memory comes from PyTorch's caching allocator, so warm calls allocate
    nothing new.

    Attributes:
        device: where the tensors are.
        order: of what the codec starts; a caller whose tensors were made on another stream enters it first.

    Raises:
        BackendUnavailable: when torch or cupy is missing.
    """

    device: Device = field(default_factory=CudaDevice)
    name: str = "cuda"
    order: StreamOrder = field(init=False, repr=False)
    arrays: DeviceArrays = field(init=False, repr=False)
    _memory: Memory = field(init=False, repr=False)
    _damage: Damage = field(init=False, repr=False)
    _new_record: Callable[[int], Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        torch, order, damage = backends.torch(), StreamOrder(self.device), Damage(self.device)
        made = {"order": order, "arrays": DeviceArrays(self.device, order, damage), "_damage": damage}
        new_record = partial(torch.empty, dtype=torch.uint8, device=torch.device(self.device.name))
        for name, value in {**made, "_memory": Memory(self.device), "_new_record": new_record}.items():
            object.__setattr__(self, name, value)

    def encode(
        self,
        values: Tensor | Parts | Sequence[Tensor],
        layout: RecordLayout,
        levels: AnyLevels,
        key: StreamKey,
        stamp: Stamp,
        residual: Any = None,  # a Tensor: residuals are made in one run of memory
    ) -> Tensor:
        """Return the sealed record of ``values``; see ``Codec.encode``.

        Two launches; each element is read once for bucket sizes that ``cuda_structs.chunk_size`` names, else three
        launches (rotated: four, five in rounding to the nearest) and twice. A ``residual`` is handled in the same
        launches (where buckets are rotated through device memory, in one more), and has elements read once more.
        """
        where = placed(values, layout.elements, self.device, self._memory)
        if residual is not None:
            require_residual(residual, layout.elements, self.device.name)
        layout.quantiser.require_fit(levels)
        config, kind = layout.quantiser, where.kind
        if config.dither:
            require_alone(layout, key)
        self.order.enter(*where.parts, *(() if residual is None else (residual,)))
        chunk, by_width = self._chunk_size(config), isinstance(levels, LevelsByWidth)
        if by_width and not chunk:
            return cuda_host.encode(self.arrays, where.parts, layout, levels, key, stamp, residual)
        strata = key.strata if config.rounding == "stochastic" else INDEPENDENT  # to the nearest, nothing is drawn
        group = self._group(layout, levels, key, strata, residual is not None)
        record = self._begin(layout, stamp, key, group)
        if not where.parts:
            return record
        out, kept = int(record.data_ptr()), 0 if residual is None else int(residual.data_ptr())
        tensors = cuda_structs.tensors(*self._memory.addresses(where), kept, len(where.parts))
        if isinstance(levels, LevelsByWidth):
            assert chunk
            made = (self.device, self._memory, layout, levels, group, tensors, kind)
            cuda_widths.encode(*made, key, strata.parts, chunk, out, kept)
            return record
        tables = self._memory.tables(levels, config.bits, strata.parts)
        if not chunk:
            cuda_buckets.encode(self.device, self._memory, layout, group, tensors, kind, tables, key, out, kept)
            return record
        arguments = (
            *(group, tensors, tables, cuda_structs.key(key.first, key.second), np.uint32(key.first_element)),
            *(np.int32(chunk), np.uint32(layout.codes_offset // 4), out, kept),
        )
        shared = chunk // LANES * cuda_structs.row_bytes(config)
        self.device.launch(cuda_names.encode(kind, config), -(-layout.elements // chunk), arguments, shared)
        return record

    def decode_sum(
        self,
        records: Sequence[Tensor],
        layout: RecordLayout,
        levels: AnyLevels,
        stamps: Sequence[Stamp],
        scale: float,
        out: Tensor | Parts | Sequence[Tensor] | None = None,
    ) -> Any:
        """Return float32[elements], or fill ``out``: ``scale`` times the sum of the records in the order given.

        One launch reads every record and writes once; a second, of one block, compares the checksums. Rotated buckets
        that do not fit shared memory take two launches a record. A record with a wrong header decodes to NaN.
        """
        torch = backends.torch()
        if out is None:
            out = torch.empty(layout.elements, dtype=torch.float32, device=self.device.name)
        layout.quantiser.require_fit(levels)
        found = require_records(records, layout, stamps, self.device)
        where = placed(out, layout.elements, self.device, self._memory)
        self.order.enter(*where.parts)
        if not layout.elements:
            return out
        if not records:
            for part in where.parts:
                part.zero_()
            return out
        kind, config = where.kind, layout.quantiser
        summed = cuda_structs.summed_row_bytes(config)
        chunk = self._chunk_size(config, summed)
        if isinstance(levels, LevelsByWidth) and not chunk:
            cuda_host.decode_sum(self.arrays, records, layout, levels, stamps, scale, where.parts)
            return out
        described, checks = self._records(records, found, layout, stamps)
        data, ends = self._memory.addresses(where)
        count = len(where.parts)
        if isinstance(levels, LevelsByWidth):
            assert chunk
            given = (self.device, self._memory, layout, levels, described, scale, checks, self._damage.address())
            cuda_widths.decode_sum(*given, (data, ends, count), kind, chunk)
            return out
        group, tables = cuda_structs.group(layout, levels), self._memory.tables(levels, config.bits)
        arguments = (described, group, tables, np.float32(scale), data, ends, np.uint32(count), checks)
        if not config.rotate:
            blocks = cuda_structs.decode_blocks(layout.elements, WARPS)
            self.device.launch(cuda_names.decode(kind, config), blocks, arguments)
        elif chunk:
            blocks, shared = -(-layout.elements // chunk), chunk // LANES * summed
            self.device.launch(cuda_names.decode(kind, config), blocks, (*arguments, np.int32(chunk)), shared)
        else:
            out_parts = (data, ends, count)
            cuda_buckets.decode_runs(self.device, layout, described, group, tables, scale, checks, out_parts, kind)
        self._finish(described, checks)
        return out

    def recode(
        self,
        records: Sequence[Tensor],
        layout: RecordLayout,
        levels: AnyLevels,
        stamps: Sequence[Stamp],
        room: Tensor | Parts,
        again: RecordLayout,
        levels_again: AnyLevels,
        key: StreamKey,
        stamp: Stamp,
    ) -> Tensor:
        """Return the record, under ``again``, of the sum of ``records``, which never leaves the chip; see ``Codec``.

        Falls back to ``decode_sum`` and ``encode`` for bucket sizes that need two readings, for rotated buckets and for
        dithered records.
        """
        chunk, turned = self._chunk_size(again.quantiser), layout.quantiser.rotate or again.quantiser.rotate
        unknown = layout.quantiser.dither or any(each.quantiser.budget is not None for each in (layout, again))
        if chunk is None or turned or unknown or not records or not layout.elements:
            return Codec.recode(self, records, layout, levels, stamps, room, again, levels_again, key, stamp)
        self.order.enter()
        found = require_records(records, layout, stamps, self.device)
        layout.quantiser.require_fit(levels)
        again.quantiser.require_fit(levels_again)
        assert isinstance(levels, Levels) and isinstance(levels_again, Levels)
        require_alone(again, key)
        group_again = self._group(again, levels_again, key, key.strata)  # not rotated, so stochastic
        record = self._begin(again, stamp, key, group_again)
        described, checks = self._records(records, found, layout, stamps)
        bits, wide = layout.quantiser.bits, again.quantiser.bits
        arguments = (
            described,
            cuda_structs.group(layout, levels),
            self._memory.tables(levels, bits),
            checks,
            group_again,
            self._memory.tables(levels_again, wide, key.strata.parts),
            cuda_structs.key(key.first, key.second),
            np.uint32(key.first_element),
            np.int32(chunk),
            np.uint32(again.codes_offset // 4),
            int(record.data_ptr()),
        )
        self.device.launch(cuda_names.recode(bits, wide), -(-again.elements // chunk), arguments, 4 * chunk)
        self._finish(described, checks)
        return record

    def statistics(
        self, values: Tensor | Parts | Sequence[Tensor], config: QuantiserConfig, weight_exponent: int
    ) -> GradientStatistics:
        """Return the summary of the normalised coordinates. Waits: the levels are fitted on the host."""
        torch = backends.torch()
        where = placed(values, None, self.device, self._memory)
        elements, kind = sum(where.lengths), where.kind
        self.order.enter(*where.parts)
        if not elements:
            return GradientStatistics.empty(weight_exponent)
        layout = RecordLayout(elements, config)
        group = cuda_structs.group(layout)
        tensors = cuda_structs.tensors(*self._memory.addresses(where), 0, len(where.parts))
        if config.rotate:
            turned = cuda_buckets.rotated(self.device, layout, group, tensors, kind, 0)
            tensors, kind = cuda_structs.tensors(*self._memory.address(turned), 0, 1), "float"
        norms, limits = cuda_buckets.norms_and_limits(self.device, group, tensors, kind, layout.buckets)
        counted = torch.zeros(2 * BINS + 4 * layout.buckets, dtype=torch.float64, device=self.device.name)
        mass, first, moments = (int(counted[start:].data_ptr()) for start in (0, BINS, 2 * BINS))
        bins = np.array((OCTAVES, BINS_PER_OCTAVE_LOG2, weight_exponent), dtype=cuda_structs.BINS)
        arguments = (group, tensors, int(norms.data_ptr()), int(limits.data_ptr()), bins, mass, first, moments)
        shared = 4 * BINS_PER_SIDE * 8
        self.device.launch(cuda_names.of_kind("statistics", kind), min(layout.buckets, 1024), arguments, shared)
        host = counted.cpu().numpy()
        return GradientStatistics.from_bucket_sums(
            host[2 * BINS :].reshape(-1, 4),
            host[:BINS],
            host[BINS : 2 * BINS],
            elements=elements,
            bucket_size=config.bucket_size,
            weight_exponent=weight_exponent,
        )

    def raise_for_damage(self) -> None:
        """Wait for what was decoded, and raise ``WireFormatError`` if a record since the last call was damaged."""
        self.order.enter()
        self._damage.refuse(self._damage.take())

    def _chunk_size(self, config: QuantiserConfig, row_bytes: int | None = None) -> int | None:
        row_bytes = row_bytes or cuda_structs.row_bytes(config)
        return cuda_structs.chunk_size(config.bucket_size, self.device.shared_bytes, row_bytes)

    def _group(
        self, layout: RecordLayout, levels: AnyLevels, key: StreamKey, strata: Strata, keeps: bool = False
    ) -> cuda_structs.Struct:
        """Return how an encoder quantises with ``key``, drawing from ``strata``; ``keeps`` what it loses.

        Registers do not hold what is rare: strata that are shifted again within a tile, and a dither beside a residual.
        """
        signs = sign_key(key, layout.quantiser)
        if isinstance(levels, LevelsByWidth):
            levels = levels.tables[0]  # only whether there is a dither counts
        if strata.parts == 1:
            holds = not (keeps and layout.quantiser.dither)
            return cuda_structs.group(layout, levels, signs, holds=holds)
        holds = key.first_element % PERIOD == 0
        return cuda_structs.group(layout, levels, signs, strata, self._memory.unshifted(), holds)

    def _begin(self, layout: RecordLayout, stamp: Stamp, key: StreamKey, group: cuda_structs.Struct) -> Any:
        record, config = self._new_record(layout.record_bytes), layout.quantiser
        signs = (*sign_key(key, config), key.first_element, 0) if config.rotate else ()
        draws = (key.first, key.second, key.first_element, 0) if config.dither else ()
        plan = cuda_structs.record_plan(layout, stamp, signs + draws)
        self.device.launch(cuda_names.BEGIN_RECORD, 1, (plan, group, int(record.data_ptr())))
        return record

    def _records(
        self, records: Sequence[Tensor], addresses: tuple[int, ...], layout: RecordLayout, stamps: Sequence[Stamp]
    ) -> tuple[Any, int]:
        for record in records:
            self.device.keep(record)
        data, senders = self._memory.senders(addresses, stamps)
        described = cuda_structs.records(layout, stamps[0], data, senders, len(records))
        return described, self._memory.checks(len(records))

    def _finish(self, described: Any, checks: int) -> None:
        arguments = (described, cuda_structs.UNPLACED, checks, self._damage.address())
        self.device.launch(cuda_names.FINISH_DECODE, 1, arguments)
