"""What the targets of ``tests.fuzz.run`` are made of: valid things to start from, and ways to change them."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import alq_hvd
from alq_hvd.checkpoint.plain import pack, unpack
from alq_hvd.checkpoint.store import _HEADER, _MAGIC, CheckpointStore
from alq_hvd.codec.keys import StreamKey, stream_key
from alq_hvd.codec.reference import ReferenceCodec
from alq_hvd.engine.adaptation import agreement
from alq_hvd.errors import AlqError, WireFormatError
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.levels_by_width import LevelsByWidth
from alq_hvd.quantiser.policies.base import LevelUpdate
from alq_hvd.quantiser.record import RecordLayout, Stamp, seal
from alq_hvd.quantiser.statistics import GradientStatistics

_VALUES = np.random.default_rng(0).standard_normal(4096).astype(np.float32)
_ODD = (
    None, True, -1, 0, 1, 2**31, 2**63, 2**200, -0.5, 0.0, 1e308, float("nan"), float("inf"), "", "x", "3", b"y", [],
    {}, (), [[]], [None], {"values": []}, {"values": [0.0, 1.0], "version": -1}, {"a": {"b": 1}}, [0.0] * 300, 1j,
)  # fmt: skip
_EXECUTES = ("exec", "compile", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen",
             "socket.connect", "ctypes.dlopen", "shutil.rmtree", "os.remove", "pty.spawn", "import")  # fmt: skip


class Kit:
    """Hold everything; one a process."""

    RecordLayout, Stamp, GradientStatistics = RecordLayout, Stamp, GradientStatistics
    AlqError, WireFormatError = AlqError, WireFormatError
    seal, unpack, copy = staticmethod(seal), staticmethod(unpack), staticmethod(copy.deepcopy)
    read_announcement = staticmethod(agreement._read)

    def __init__(self, folder: Path) -> None:
        self.reference = ReferenceCodec()
        self.codecs = [self.reference, _native()]
        self.watch: list[str] = []
        self._folder = folder

    def prepare(self, name: str, watch: bool = True) -> None:
        """Make what one target needs; ``watch``: notice when anything is executed, for the rest of the process."""
        if name == "messages":
            summary = self.reference.statistics(_VALUES, QuantiserConfig(3, 64), 2)
            self.statistics_bytes = summary.to_bytes()
            old = Levels(np.linspace(-1, 1, 5, dtype=np.float32), 0)
            update = LevelUpdate(old.next_version(old.values * 0.9), 2.0, 1.0, "a reason")
            self.announcement = agreement._write(update, False, old).tobytes()
        if name == "states":
            self.states = [self.compression(number).state_dict() for number in range(4)]
        if name == "checkpoints":
            model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
            some = {"settings": {"seed": 1}, "shared": {"model": model.state_dict()}, "parts": [b"abc", b"d" * 50]}
            self.packed_states = [pack(some, "a"), pack(self.compression(0).state_dict(), "b"), pack([1, "x"], "c")]
            self.store = CheckpointStore(self._folder / "store")
            self.store.write(1, b"first")
            if watch:
                self.watch_execution()

    def watch_execution(self) -> None:
        """Note every audit event that would mean that what is read is executed."""
        with contextlib.suppress(AlqError):  # what reading needs the first time may be imported
            unpack(b"", "first")

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
            inside = writes and str(self._folder) in str(arguments[0])
            if event in _EXECUTES or (writes and not inside):
                self.watch.append(f"{event} {arguments[:2]!r}")

        sys.addaudithook(hook)

    @staticmethod
    def array(raw: bytes) -> Any:
        """Return bytes as uint8[n] that can be written."""
        return np.frombuffer(raw, np.uint8).copy()

    @staticmethod
    def values(elements: int) -> Any:
        """Return float32[elements]."""
        return _VALUES[:elements].copy()

    @staticmethod
    def key() -> StreamKey:
        """Return a key of random numbers."""
        return stream_key(seed=1, step=5, rank=1, group=0, shot=0)

    @staticmethod
    def config(data: Any) -> QuantiserConfig:
        """Choose how to quantise."""
        rotate = data.ConsumeBool()
        size = 2 ** data.ConsumeIntInRange(0, 12) if rotate else data.ConsumeIntInRange(1, 4096)
        return QuantiserConfig(data.ConsumeIntInRange(1, 8), size, ("l2", "linf")[data.ConsumeBool()], rotate=rotate)

    @staticmethod
    def levels(data: Any, bits: int) -> Levels:
        """Choose a table, which may be smaller than the codes could index."""
        count = data.ConsumeIntInRange(2, 2**bits)
        return Levels(np.linspace(-1, 1, count, dtype=np.float32), 0)

    @staticmethod
    def widths(data: Any) -> tuple[QuantiserConfig, LevelsByWidth]:
        """Choose how to quantise blocks of widths of their own, and a table for each."""
        rotate, lowest = data.ConsumeBool(), data.ConsumeIntInRange(1, 3)
        size = (32, 512, 1024, 2048)[data.ConsumeIntInRange(0, 3)]
        budget = data.ConsumeIntInRange(8, 128) / 16
        dither, norm = data.ConsumeBool(), ("l2", "linf")[data.ConsumeBool()]
        config = QuantiserConfig(8, size, norm, rotate=rotate, dither=dither, budget=budget)
        tables = tuple(Kit.levels(data, bits) for bits in range(lowest, 9))
        errors = np.float32(2.0) ** -np.array([data.ConsumeIntInRange(-4, 20) for _ in tables])
        return config, LevelsByWidth(lowest, tables, errors)

    @staticmethod
    def equal(first: Any, second: Any) -> bool:
        """Return whether two arrays hold the same bits, any NaN being as good as another."""
        return bool(np.array_equal(first, second, equal_nan=True))

    @staticmethod
    def changed(data: Any, raw: bytes) -> bytes:
        """Return bytes with pieces replaced, removed or added."""
        if data.ConsumeIntInRange(0, 15) == 0:
            return bytes(data.ConsumeBytes(data.remaining_bytes()))
        content = bytearray(raw)
        for _ in range(data.ConsumeIntInRange(0, 6)):
            place = data.ConsumeIntInRange(0, len(content))
            piece = data.ConsumeBytes(data.ConsumeIntInRange(0, 12))
            removed = data.ConsumeIntInRange(0, 2) * len(piece)
            content[place : place + removed] = piece
        return bytes(content)

    @staticmethod
    def whole_file(payload: bytes) -> bytes:
        """Return a checkpoint file with the right hash."""
        return _HEADER.pack(_MAGIC, len(payload), hashlib.sha256(payload).digest()) + payload

    @staticmethod
    def compression(number: int) -> Any:
        """Return one of four compressions."""
        made = alq_hvd.Compression
        options: tuple[Any, ...] = (
            (made.optimal, {"bits": 3, "exchange": "two_shot"}), (made.alq, {"bits": 2, "error_feedback": True}),
            (made.amq, {"bits": 1.5, "widths": "adaptive"}), (made.eden, {"bits": 4, "exchange": "allgather"}),
        )  # fmt: skip
        make, chosen = options[number]
        return make(**chosen)

    @staticmethod
    def mutate(data: Any, state: dict[str, Any]) -> None:
        """Replace, remove or copy one value, at any depth."""
        where: Any = state
        while True:
            keys: list[Any] = list(where) if isinstance(where, dict) else list(range(len(where)))
            if not keys:
                return
            key = keys[data.ConsumeIntInRange(0, len(keys) - 1)]
            inner = where[key]
            if isinstance(inner, (dict, list)) and inner and data.ConsumeBool():
                where = inner
                continue
            if data.ConsumeIntInRange(0, 7) == 0:
                del where[key]
            elif data.ConsumeBool():
                where[key] = copy.deepcopy(_ODD[data.ConsumeIntInRange(0, len(_ODD) - 1)])
            else:
                where[key] = data.ConsumeFloat() if data.ConsumeBool() else data.ConsumeInt(8)
            return


def _native() -> Any:
    """Return the C++ codec, the one compiled with sanitisers where the environment names it."""
    named = os.environ.get("ALQ_HVD_FUZZ_NATIVE")
    if named:
        found = importlib.util.spec_from_file_location("alq_hvd.codec._native", named)
        assert found is not None and found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules["alq_hvd.codec._native"] = module
        found.loader.exec_module(module)
    from alq_hvd.codec.native import NativeCodec

    return NativeCodec()
