"""The fields of a finished run: their names, their checks, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from alq_hvd.errors import RunRecordError

FORMAT = "alq_hvd.run"
VERSION = 1
STEPS_FILE = "steps.jsonl"
RESULT_FILE = "result.json"
PARTS = ("compute", "encode", "exchange", "decode", "adapt")
"""The parts a step is split into; they add up to the step's wall-clock time."""
COUNTED, COMPUTED = "counted", "computed"
"""How the bytes of a step became known: by counting what was sent, or from the formula of a ring all-reduce."""

Document: TypeAlias = Mapping[str, Any]

_OPTIONAL: dict[str, tuple[type, ...]] = {
    "break_even": (dict,),
    "commit": (str,),
    "exchange": (str,),
    "job": (dict,),
    "options": (dict,),
    "resumed": (list,),
    "software": (dict,),
    "started": (str,),
    "train_seconds": (int, float),
}
_KINDS = {dict: "an object", list: "a list", str: "a text", int: "a number"}
_OPTIONAL_OF_NODE: dict[str, tuple[type, ...]] = {"gpus": (list,), "memory_bytes": (int, float), "software": (dict,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """Hold what a finished training says of itself; docs/reference/run-record.md explains every field.

    Attributes:
        compression: ``fp32`` and ``fp16`` for stock Horovod, else a name of ``alq_hvd.quantiser.methods.NAMES``.
        bits: of a code, by shot; empty where there are no codes.
        examples: in one pass over the training data.
        batch_size: examples of a step, of all ranks together.
        seconds_per_step: mean wall-clock seconds of rank 0 by ``PARTS``.
        bytes_per_step: mean bytes that one rank sends in a step.
        accuracy: (epoch, accuracy from 0 to 1).
        shots: the adaptations of every quantised hop, the gradients' own first.
        document: all of it, as it was read: what is optional is looked up there.
    """

    label: str
    compression: str
    bits: tuple[float, ...]
    model: str
    parameters: int
    dataset: str
    examples: int
    batch_size: int
    world_size: int
    steps: int
    seed: int
    seconds_per_step: Mapping[str, float]
    bytes_per_step: float
    bytes_are: str
    accuracy: tuple[tuple[float, float], ...]
    shots: tuple[tuple[Document, ...], ...]
    nodes: tuple[Document, ...]
    document: Document

    @property
    def step_seconds(self) -> float:
        """Return the mean wall-clock seconds of a step."""
        return math.fsum(self.seconds_per_step.values())

    @property
    def examples_per_second(self) -> float:
        """Return how many examples all ranks together train on in a second."""
        return self.batch_size / self.step_seconds

    @classmethod
    def from_document(cls, document: Document) -> RunResult:
        """Check a decoded ``result.json``.

        Raises:
            RunRecordError: naming the field, what was expected and what was received.
        """
        if not isinstance(document, Mapping):
            raise RunRecordError(f"expected a JSON object, got {_shown(document)}")
        if document.get("format") != FORMAT:
            raise RunRecordError(f"format: expected {FORMAT!r}, got {_shown(document.get('format'))}")
        if document.get("format_version") != VERSION:
            raise RunRecordError(
                f"format_version: expected {VERSION}, got {_shown(document.get('format_version'))}: read it with the "
                "alq_hvd that wrote it"
            )
        _check_optional(document, _OPTIONAL, "")
        seconds = _object(document, "seconds_per_step")
        nodes = tuple(_check_node(node) for node in _list(document, "nodes"))
        world_size = _integer(document, "world_size", 1)
        ranks = sorted(rank for node in nodes for rank in node["ranks"])
        if nodes and ranks != list(range(world_size)):
            raise RunRecordError(f"nodes: expected each of {world_size} ranks on one node, got ranks {ranks}")
        later = [_object_in("later_shots", shot) for shot in _list(document, "later_shots")]
        result = cls(
            label=_text(document, "label"),
            compression=_text(document, "compression"),
            bits=_bits(document),
            model=_text(document, "model"),
            parameters=_integer(document, "parameters", 1),
            dataset=_text(document, "dataset"),
            examples=_integer(document, "examples", 1),
            batch_size=_integer(document, "batch_size", 1),
            world_size=world_size,
            steps=_integer(document, "steps", 1),
            seed=_integer(document, "seed", None),
            seconds_per_step={part: _number(seconds, part, "seconds_per_step.") for part in PARTS},
            bytes_per_step=_number(document, "bytes_per_step"),
            bytes_are=_text(document, "bytes_are"),
            accuracy=tuple(_pair("accuracy", pair) for pair in _list(document, "accuracy")),
            shots=tuple(
                tuple(_check_adaptation(event) for event in _list(shot, "adaptations")) for shot in (document, *later)
            ),
            nodes=nodes,
            document=document,
        )
        if result.bytes_are not in (COUNTED, COMPUTED):
            raise RunRecordError(f"bytes_are: expected {COUNTED!r} or {COMPUTED!r}, got {result.bytes_are!r}")
        if not result.step_seconds > 0:
            raise RunRecordError("seconds_per_step: expected parts that add up to more than 0, got 0")
        return result


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _required(document: Document, name: str, prefix: str = "") -> Any:
    if name not in document:
        raise RunRecordError(f"{prefix}{name}: expected this field, got a record without it")
    return document[name]


def _text(document: Document, name: str) -> str:
    value = _required(document, name)
    if not isinstance(value, str) or not value:
        raise RunRecordError(f"{name}: expected a text, got {_shown(value)}")
    return value


def _integer(document: Document, name: str, low: int | None) -> int:
    value = _required(document, name)
    if isinstance(value, bool) or not isinstance(value, int) or (low is not None and value < low):
        raise RunRecordError(f"{name}: expected an integer{'' if low is None else f' from {low}'}, got {_shown(value)}")
    return value


def _number(document: Document, name: str, prefix: str = "") -> float:
    value = _required(document, name, prefix)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise RunRecordError(f"{prefix}{name}: expected a number from 0, got {_shown(value)}")
    return float(value)


def _object(document: Document, name: str) -> Document:
    return _object_in(name, _required(document, name))


def _object_in(name: str, value: Any) -> Document:
    if not isinstance(value, Mapping):
        raise RunRecordError(f"{name}: expected an object, got {_shown(value)}")
    return value


def _list(document: Document, name: str) -> Sequence[Any]:
    """Return a list that may be absent: empty then."""
    value = document.get(name) or []
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RunRecordError(f"{name}: expected a list, got {_shown(value)}")
    return value


def _bits(document: Document) -> tuple[float, ...]:
    value = document.get("bits")
    widths = () if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(width, int | float) and 0.5 <= width <= 8 for width in widths):
        raise RunRecordError(f"bits: expected widths from 0.5 to 8 or null, got {_shown(value)}")
    return tuple(widths)


def _pair(name: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(map(_is_finite, value)):
        raise RunRecordError(f"{name}: expected pairs of numbers, got {_shown(value)}")
    return float(value[0]), float(value[1])


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_optional(document: Document, kinds: Mapping[str, tuple[type, ...]], prefix: str) -> None:
    """Check the kind of those fields that may be absent or null."""
    for name, allowed in kinds.items():
        value = document.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, allowed)):
            raise RunRecordError(f"{prefix}{name}: expected {_KINDS[allowed[0]]} or null, got {_shown(value)}")
    decision = document.get("break_even")
    if decision is not None:
        predicted = _object(decision, "seconds")
        for name in predicted:
            _number(predicted, name, "break_even.seconds.")


def _check_node(value: Any) -> Document:
    node = _object_in("nodes", value)
    ranks = node.get("ranks")
    if not isinstance(node.get("host"), str) or not isinstance(ranks, list) or not ranks:
        raise RunRecordError(f"nodes: expected host and ranks of each, got {_shown(value)}")
    _check_optional(node, _OPTIONAL_OF_NODE, "nodes: ")
    if not all(isinstance(rank, int) for rank in ranks):
        raise RunRecordError(f"nodes: expected ranks as integers, got {_shown(ranks)}")
    return node


def _check_adaptation(value: Any) -> Document:
    event = _object_in("adaptations", value)
    for name in ("levels_before", "levels_after"):
        levels = event.get(name)
        if not isinstance(levels, list) or not levels or not all(map(_is_finite, levels)):
            raise RunRecordError(f"adaptations: expected {name} as a list of numbers, got {_shown(levels)}")
    for name in ("step", "objective_before", "objective_after"):
        if not _is_finite(event.get(name)):
            raise RunRecordError(f"adaptations: expected {name} as a number, got {_shown(event.get(name))}")
    return event
