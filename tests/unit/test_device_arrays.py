"""Values and records on a device do what those of the host do, and leave it only when they are whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from alq_hvd.codec.arrays import HostArrays
from alq_hvd.codec.cuda_codec import CudaCodec
from alq_hvd.codec.cuda_stream import StreamOrder
from alq_hvd.codec.device_arrays import DeviceArrays, Parts
from alq_hvd.errors import WireFormatError
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.record import RecordLayout, Stamp
from tests.support.cases import each
from tests.support.cuda_cases import KEY, levels_of
from tests.support.emulated_device import EmulatedDevice, needs_compiler

HOST = HostArrays()


@pytest.fixture
def arrays() -> DeviceArrays:
    return CudaCodec(EmulatedDevice()).arrays


def numbers(elements: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(elements).astype(np.float32)


def parts_of(values: np.ndarray, dtype: torch.dtype = torch.float32) -> Parts:
    cuts = [len(values) // 3, 0, len(values) - len(values) // 3]
    return Parts(tuple(part.to(dtype) for part in torch.from_numpy(values.copy()).split(cuts)))


@each(("start", "stop"), [(0, 90), (0, 0), (10, 20), (29, 31), (30, 90), (89, 90), (90, 90), (5, 999)])
def test_parts_are_cut_as_one_array_would_be_and_share_memory(start: int, stop: int) -> None:
    values = numbers(90)
    parts = parts_of(values)
    cut = parts[start:stop]
    assert len(cut) == len(values[start:stop])
    assert np.array_equal(np.concatenate([[], *cut.tensors]), values[start:stop])
    for part in cut.tensors:
        part.zero_()
    values[start:stop] = 0
    assert np.array_equal(torch.cat(parts.tensors).numpy(), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_sums_and_products_are_those_of_the_host(arrays: DeviceArrays, dtype: torch.dtype) -> None:
    wide = torch.from_numpy(numbers(90)).to(dtype).float().numpy()
    there = parts_of(wide, dtype)
    assert np.array_equal(arrays.as_bytes(there).numpy(), HOST.as_bytes(wide))
    assert np.array_equal(arrays.copied(wide).numpy(), wide)
    records = [HOST.as_bytes(numbers(90, seed)) for seed in range(4)]
    sums, added = np.empty(90, np.float32), arrays.room_for_sum(there)
    HOST.add_up(records, sums)
    arrays.add_up([torch.from_numpy(record) for record in records], added)
    assert np.array_equal(added.numpy(), sums)
    products = np.empty(90, np.float32)
    HOST.scaled(records[0], 1 / 3, products)
    arrays.scaled(torch.from_numpy(records[0]), 1 / 3, there)
    assert torch.equal(torch.cat(there.tensors), torch.from_numpy(products).to(dtype))
    padded = arrays.padded(torch.from_numpy(records[0]), 512)
    assert np.array_equal(padded.numpy(), HOST.padded(records[0], 512))
    assert arrays.padded(padded, 512) is padded


def test_residuals_are_held_back_copied_and_rescaled_as_on_the_host(arrays: DeviceArrays) -> None:
    values, residual = numbers(90), numbers(90, 1)
    values[[0, 7, 89]] = 0
    there = torch.from_numpy(residual.copy())
    held = HOST.hold_back(values, residual)
    assert np.array_equal(arrays.hold_back(parts_of(values), there).numpy(), held)
    assert np.array_equal(there.numpy(), residual) and held is not None and np.count_nonzero(held) == 3
    assert HOST.hold_back(numbers(90), residual) is None
    other = arrays.zeros(90)
    arrays.overwrite(other, there)
    arrays.multiply(other, 1 / 3)
    HOST.multiply(residual, 1 / 3)
    assert np.array_equal(other.numpy(), residual)
    for bad, stride, finite in ((64, 64, False), (65, 64, True), (0, 100, False)):
        values[:] = 1
        values[bad] = np.nan
        assert arrays.is_finite(parts_of(values), stride) is HOST.is_finite(values, stride) is finite


def test_squares_are_those_of_the_host_and_none_of_what_is_not_finite(arrays: DeviceArrays) -> None:
    decoded, values = numbers(90), numbers(90, 1)
    assert arrays.error(torch.from_numpy(decoded), parts_of(values)) == pytest.approx(HOST.error(decoded, values))
    decoded[7] = np.inf
    assert arrays.error(torch.from_numpy(decoded), parts_of(values)) is None is HOST.error(decoded, values)


@each("lengths", [[512], [512, 0, 1024], [0], [0, 0]])
def test_records_go_to_the_host_and_back(lengths: list[int]) -> None:
    arrays = CudaCodec(EmulatedDevice(polls=2)).arrays
    records = [torch.full((length,), 7 + index, dtype=torch.uint8) for index, length in enumerate(lengths)]
    leaving = arrays.depart(records)
    assert [leaving.done(), leaving.done(), leaving.done()] == [False, False, True]
    payloads = leaving.wait()
    assert [payload.tobytes() for payload in payloads] == [bytes(record.numpy()) for record in records]
    for record, back in zip(records, arrays.arrive(payloads), strict=True):
        assert torch.equal(back, record)


@needs_compiler
@pytest.mark.timeout(300)
def test_nothing_leaves_once_a_damaged_record_was_decoded() -> None:
    codec, levels = CudaCodec(EmulatedDevice()), levels_of(8)
    layout, stamp = RecordLayout(700, QuantiserConfig(3, 512)), Stamp(levels.digest, 2, 3)
    record = codec.encode(torch.ones(700), layout, levels, KEY, stamp)
    assert codec.arrays.depart([record]).wait()[0].tobytes() == record.numpy().tobytes()
    record[layout.codes_offset] ^= 1
    codec.decode_sum([record], layout, levels, [stamp], 1.0)
    leaving = codec.arrays.depart([record])
    with pytest.raises(WireFormatError, match="a checksum that does not fit"):
        leaving.wait()


@dataclass(frozen=True, eq=False)
class Streams(EmulatedDevice):
    """Have a current stream that a test sets, and remember which stream waited for which."""

    current: list[str] = field(default_factory=lambda: ["one"])
    waited: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def stream(self) -> str:
        return self.current[0]

    def follow(self, stream: Any) -> None:
        self.waited.append((self.stream, stream))


def test_each_stream_waits_for_the_one_before() -> None:
    device = Streams()
    order = StreamOrder(device)
    for stream in ("one", "one", "two", "two", "one", "three"):
        device.current[0] = stream
        order.enter()
    assert device.waited == [("two", "one"), ("one", "two"), ("three", "one")]


@needs_compiler
@pytest.mark.timeout(300)
def test_all_that_a_codec_and_its_arrays_start_is_in_one_order() -> None:
    """Whatever is called next on another stream waits for what was called before."""
    device = Streams()
    codec, levels, config = CudaCodec(device), levels_of(8), QuantiserConfig(3, 512)
    layout, stamp = RecordLayout(700, config), Stamp(levels.digest, 2, 3)
    values = torch.ones(700)
    record = codec.encode(values, layout, levels, KEY, stamp)
    arrays = codec.arrays
    calls = [
        lambda: codec.encode(values, layout, levels, KEY, stamp),
        lambda: codec.decode_sum([record], layout, levels, [stamp], 1.0),
        lambda: codec.recode([record], layout, levels, [stamp], values, layout, levels, KEY, stamp),
        lambda: codec.statistics(values, config, 2),
        lambda: arrays.depart([record]),
        lambda: arrays.arrive([record.numpy()]),
        lambda: arrays.padded(record, 4096),
        lambda: arrays.as_bytes(values),
        lambda: arrays.add_up([values.view(torch.uint8)], torch.empty(700)),
        lambda: arrays.scaled(values.view(torch.uint8), 1.0, torch.empty(700)),
        lambda: arrays.error(values, values),
        lambda: arrays.copied(values.numpy()),
    ]
    for index, call in enumerate(calls):
        device.current[0] = f"stream {index}"
        call()
        assert len(device.waited) == index + 1
