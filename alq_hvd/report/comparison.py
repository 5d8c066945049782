"""Speed-up and efficiency of every method at every size, against one baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import Any

from alq_hvd.errors import ConfigurationError
from alq_hvd.report.selection import Selection
from alq_hvd.run_record import PARTS, Run

UNCOMPRESSED = "fp32"
_STOCK = ("fp32", "fp16", "none")
_QUARTILES = 4
_FEW_STEPS = 8


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """Say how large a run was; ``nodes`` is 0 where that was not recorded."""

    ranks: int
    nodes: int

    @property
    def layout(self) -> str:
        """Return nodes x ranks of a node, as far as it is known."""
        if not self.nodes:
            return "not recorded"
        if self.ranks % self.nodes:
            return f"{self.nodes} nodes, uneven"
        return f"{self.nodes} × {self.ranks // self.nodes}"


@dataclass(frozen=True, slots=True)
class Point:
    """Hold one method at one size; several runs of it (other seeds, repetitions) are averaged.

    Attributes:
        examples_per_second: mean over ``runs``.
        speed_up: over the baseline.
        efficiency: speed-up divided by how many times as many ranks there are.
        against_plain: throughput divided by that of uncompressed Horovod at this size; ``None`` without such a run.
        quartiles: of the throughput of single steps, as far as steps were logged.
    """

    method: str
    size: Size
    runs: tuple[Run, ...]
    examples_per_second: float
    speed_up: float
    efficiency: float
    against_plain: float | None
    quartiles: tuple[float, float] | None

    @property
    def seconds_per_step(self) -> dict[str, float]:
        """Return the mean seconds of each part of a step."""
        return {part: fmean(run.result.seconds_per_step[part] for run in self.runs) for part in PARTS}

    @property
    def bytes_per_step(self) -> float:
        """Return the mean bytes that one rank sends in a step."""
        return fmean(run.result.bytes_per_step for run in self.runs)

    @property
    def bytes_are(self) -> str:
        """Return how these bytes are known."""
        return self.runs[0].result.bytes_are

    @property
    def accuracy(self) -> float | None:
        """Return the mean accuracy at the end; ``None`` where none was recorded."""
        ends = [run.result.accuracy[-1][1] for run in self.runs if run.result.accuracy]
        return fmean(ends) if ends else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Hold every point, the baseline they are measured against, and what is missing between them."""

    selection: Selection
    methods: tuple[str, ...]
    sizes: tuple[Size, ...]
    points: tuple[Point, ...]
    baseline: Point
    missing: tuple[str, ...]

    def at(self, method: str, size: Size) -> Point | None:
        """Return the point of ``method`` at ``size``, if there is one."""
        return next((point for point in self.points if (point.method, point.size) == (method, size)), None)

    def of(self, method: str) -> list[Point]:
        """Return the points of ``method``, the smallest first."""
        return [point for point in self.points if point.method == method]


def compare(selection: Selection, baseline: str | None = None) -> Comparison:
    """Compare the runs of ``selection``.

    Args:
        baseline: name of the method whose smallest run everything is compared with; ``None``: uncompressed Horovod
            where there is such a run, else the first method.

    Raises:
        ConfigurationError: no run is of the method ``baseline``.
    """
    names = method_names(selection.runs)
    grouped: dict[tuple[str, Size], list[Run]] = {}
    for run, name in zip(selection.runs, names, strict=True):
        grouped.setdefault((name, _size(run)), []).append(run)
    first = {name: run.result for name, run in reversed(list(zip(names, selection.runs, strict=True)))}
    methods = sorted(first, key=lambda name: _rank_of_method(first[name].compression))
    speeds = {key: fmean(run.result.examples_per_second for run in runs) for key, runs in grouped.items()}
    chosen = baseline or methods[0]
    if chosen not in methods:
        raise ConfigurationError(f"--baseline: expected one of {', '.join(methods)}, got {baseline!r}")
    base = min((key for key in grouped if key[0] == chosen), key=lambda key: key[1])
    plain = next((name for name in methods if first[name].compression == UNCOMPRESSED), None)
    points = []
    for (name, size), runs in sorted(grouped.items(), key=lambda item: (methods.index(item[0][0]), item[0][1])):
        speed = speeds[name, size]
        beside = speeds.get((plain, size)) if plain is not None else None
        points.append(
            Point(
                method=name,
                size=size,
                runs=tuple(runs),
                examples_per_second=speed,
                speed_up=speed / speeds[base],
                efficiency=speed / speeds[base] * base[1].ranks / size.ranks,
                against_plain=speed / beside if beside else None,
                quartiles=_quartiles(runs),
            )
        )
    sizes = sorted({size for _, size in grouped})
    missing = [
        f"{name} at {size.ranks} ranks ({size.layout}): no run"
        for name in methods
        for size in sizes
        if (name, size) not in grouped
    ]
    start = next(point for point in points if (point.method, point.size) == base)
    return Comparison(selection, tuple(methods), tuple(sizes), tuple(points), start, tuple(missing))


def method_names(runs: Sequence[Run]) -> list[str]:
    """Return a name for the method of each run; equal names mean equal options."""
    options = [_options(run) for run in runs]
    plain = [_plain_name(run) for run in runs]
    names = []
    for own, name in zip(options, plain, strict=True):
        alike = [other for other, its_name in zip(options, plain, strict=True) if its_name == name]
        differing = [key for key in own if any(key in other and other[key] != own[key] for other in alike)]
        names.append(", ".join([name, *(f"{key}={_shown(own[key])}" for key in differing)]))
    return names


def _plain_name(run: Run) -> str:
    result = run.result
    bits = f" {'+'.join(map(str, result.bits))} bits" if result.bits and result.compression not in _STOCK else ""
    return result.compression + bits


def _options(run: Run) -> dict[str, Any]:
    """Return what distinguishes methods of one name, without seeds and what the name already says."""
    recorded = run.result.document.get("options")
    found = recorded if isinstance(recorded, dict) else {}
    return {key: value for key, value in found.items() if key not in ("method", "bits", "seed", "name")}


def _shown(value: Any) -> str:
    """Return an option's value briefly: a schedule by its steps."""
    if isinstance(value, dict):
        return " ".join(f"{key} {inner}" for key, inner in value.items() if inner is not None) or "none"
    return str(value)


def _rank_of_method(compression: str) -> int:
    """Return where a method stands: stock Horovod first, then ours as they come."""
    return _STOCK.index(compression) if compression in _STOCK else len(_STOCK)


def _size(run: Run) -> Size:
    return Size(run.result.world_size, len(run.result.nodes))


def _quartiles(runs: Sequence[Run]) -> tuple[float, float] | None:
    """Return the quartiles of the throughput of logged steps, the first of each run left out: it is a warm-up."""
    speeds = [run.result.batch_size / seconds for run in runs for seconds in run.step_times()[1:] if seconds > 0]
    if len(speeds) < _FEW_STEPS:
        return None
    low, _, high = quantiles(speeds, n=_QUARTILES)
    return low, high


def software_differences(runs: Sequence[Run]) -> dict[str, Counter[str]]:
    """Return every software of which the runs, or the nodes of one, had different versions, with their counts."""
    found: dict[str, Counter[str]] = {}
    for run in runs:
        top = run.result.document.get("software")
        for software in [top, *(node.get("software") for node in run.result.nodes)]:
            for name, version in (software or {}).items():
                found.setdefault(name, Counter())[str(version)] += 1
    return {name: versions for name, versions in found.items() if len(versions) > 1}


def counted(count: int, noun: str) -> str:
    """Return "1 rank", "2 ranks"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
