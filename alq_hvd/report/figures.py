"""The figures of the page: scaling, bytes, step time, curves and levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from alq_hvd.report.comparison import Comparison, Point, Size, counted
from alq_hvd.report.drawing import PART_COLOURS, THEME, colour_of, marker_of, no_grid, panels
from alq_hvd.run_record import PARTS, Run

MOST_POINTS = 300
"""Of a curve: more would not be seen."""


def scaling(comparison: Comparison) -> str:
    """Draw throughput, speed-up and efficiency over the number of ranks; of one size, bars of the first two."""
    if len(comparison.sizes) == 1:
        return _all_bars(
            comparison,
            {
                "Throughput (examples/s)": lambda point: point.examples_per_second,
                "Speed-up": lambda point: point.speed_up,
            },
        )
    return panels(
        [
            partial(_throughput, comparison=comparison),
            partial(_speed_up, comparison=comparison),
            partial(_efficiency, comparison=comparison),
        ]
    )


def traffic(comparison: Comparison) -> str:
    """Draw bytes, and the time of a step over the number of ranks; of one size, bars."""
    if len(comparison.sizes) == 1:
        return _all_bars(
            comparison,
            {
                "Sent per step and rank (MB)": lambda point: point.bytes_per_step / 1e6,
                "Time of a step (ms)": lambda point: 1e3 * sum(point.seconds_per_step.values()),
            },
        )
    return panels([partial(_bytes, comparison=comparison), partial(_step_time, comparison=comparison)], columns=2)


def split(comparison: Comparison) -> str:
    """Draw the parts of a step, one bar a method, one panel a size."""
    draws = [partial(_split, comparison=comparison, size=size) for size in comparison.sizes]
    return panels(draws, height=0.9 + 0.3 * len(comparison.methods))


def curves(comparison: Comparison, kind: str, name: str, unit: float = 1.0) -> str:
    """Draw what every run recorded as ``name`` in its events of one kind, one panel a size; "" without any."""
    sizes = [
        size
        for size in comparison.sizes
        if any(run.curve(kind, name) for point in comparison.points if point.size == size for run in point.runs)
    ]
    if not sizes:
        return ""
    return panels([partial(_curve, comparison=comparison, size=size, event=(kind, name), unit=unit) for size in sizes])


def levels(comparison: Comparison, method: str) -> str:
    """Draw the levels of every shot after each adaptation, one panel a size and shot; "" without adaptations."""
    colour = colour_of(comparison.methods.index(method))
    draws = [
        partial(_levels, run=point.runs[0], shot=shot, size=point.size, colour=colour)
        for shot in range(2)
        for point in comparison.of(method)
        if len(point.runs[0].result.shots) > shot and point.runs[0].result.shots[shot]
    ]
    return panels(draws, legend=False) if draws else ""


def thinned(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most ``MOST_POINTS`` points: means of neighbours, where there are more. A page must stay small."""
    together = math.ceil(len(curve) / MOST_POINTS)
    if together < 2:
        return list(curve)
    parts = [curve[start : start + together] for start in range(0, len(curve), together)]
    return [(fmean(step for step, _ in part), fmean(value for _, value in part)) for part in parts]


def _all_bars(comparison: Comparison, panes: Mapping[str, Callable[[Point], float]]) -> str:
    """Draw one panel of bars for each title: a curve through one size would be a point."""
    draws = [partial(_bars, comparison=comparison, title=title, value=value) for title, value in panes.items()]
    return panels(draws, columns=2, height=0.9 + 0.3 * len(comparison.methods), legend=False)


def _bars(axes: Any, comparison: Comparison, title: str, value: Callable[[Point], float]) -> None:
    axes.set_title(title)
    for number, point in enumerate(comparison.points):
        width = value(point)
        axes.barh(number, width, height=0.62, color=colour_of(comparison.methods.index(point.method)))
        axes.annotate(f"{width:.4g}", (width, number), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(comparison.points)), [point.method for point in comparison.points])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max(map(value, comparison.points)) or 1)
    no_grid(axes, "y")


def _throughput(axes: Any, comparison: Comparison) -> None:
    axes.set_title("Throughput (examples/s)")
    base = comparison.baseline
    ranks = [size.ranks for size in comparison.sizes if size.ranks >= base.size.ranks]
    ideal = [base.examples_per_second / base.size.ranks * number for number in ranks]
    axes.plot(ranks, ideal, linestyle=(0, (2, 2)), linewidth=1.1, color=THEME["soft"], label="ideal")
    for number, method in enumerate(comparison.methods):
        points = comparison.of(method)
        _line(axes, points, [point.examples_per_second for point in points], number, method)
        for point in points:
            if point.quartiles is not None:
                axes.plot([point.size.ranks] * 2, point.quartiles, color=colour_of(number), linewidth=8, alpha=0.25)
    _rank_axis(axes, comparison)
    _speed_axis(axes, comparison)


def _speed_up(axes: Any, comparison: Comparison) -> None:
    axes.set_title("Speed-up")
    base = comparison.baseline.size.ranks
    ranks = [size.ranks for size in comparison.sizes if size.ranks >= base]
    axes.plot(ranks, [number / base for number in ranks], linestyle=(0, (2, 2)), linewidth=1.1, color=THEME["soft"])
    for number, method in enumerate(comparison.methods):
        points = comparison.of(method)
        _line(axes, points, [point.speed_up for point in points], number)
    _rank_axis(axes, comparison)
    _speed_axis(axes, comparison)


def _efficiency(axes: Any, comparison: Comparison) -> None:
    axes.set_title("Parallel efficiency (%)")
    axes.axhline(100, linestyle=(0, (2, 2)), linewidth=1.1, color=THEME["soft"])
    for number, method in enumerate(comparison.methods):
        points = comparison.of(method)
        _line(axes, points, [100 * point.efficiency for point in points], number)
    axes.set_ylim(0, max(110, *(105 * point.efficiency for point in comparison.points)))
    _rank_axis(axes, comparison)


def _bytes(axes: Any, comparison: Comparison) -> None:
    axes.set_title("Sent per step and rank (MB)")
    for number, method in enumerate(comparison.methods):
        points = [point for point in comparison.of(method) if point.bytes_per_step > 0]
        _line(axes, points, [point.bytes_per_step / 1e6 for point in points], number, method)
    _rank_axis(axes, comparison)
    axes.set_ylim(bottom=0)


def _step_time(axes: Any, comparison: Comparison) -> None:
    axes.set_title("Time of a step (ms)")
    for number, method in enumerate(comparison.methods):
        points = comparison.of(method)
        _line(axes, points, [1e3 * sum(point.seconds_per_step.values()) for point in points], number)
    _rank_axis(axes, comparison)
    axes.set_ylim(bottom=0)


def _split(axes: Any, comparison: Comparison, size: Size) -> None:
    axes.set_title(_name(size))
    names: list[str] = []
    widest = 0.0
    for method in comparison.methods:
        point = comparison.at(method, size)
        if point is None:
            continue
        left = 0.0
        for part in PARTS:
            width = 1e3 * point.seconds_per_step[part]
            axes.barh(len(names), width, left=left, height=0.62, color=PART_COLOURS[part], label=part)
            left += width
        axes.annotate(f"{left:.4g}", (left, len(names)), (4, 0), textcoords="offset points", va="center", fontsize=8)
        names.append(method)
        widest = max(widest, left)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * widest)
    axes.set_xlabel("ms")
    no_grid(axes, "y")


def _curve(axes: Any, comparison: Comparison, size: Size, event: tuple[str, str], unit: float) -> None:
    axes.set_title(_name(size))
    kind, name = event
    for number, method in enumerate(comparison.methods):
        point = comparison.at(method, size)
        for run in point.runs if point is not None else ():
            curve = thinned(run.curve(kind, name))
            marker = marker_of(number) if len(curve) <= 12 else ""
            steps, values = [step for step, _ in curve], [unit * value for _, value in curve]
            axes.plot(
                steps, values, color=colour_of(number), marker=marker, markersize=3.5, linewidth=1.3, alpha=0.9,
                label=method,
            )  # fmt: skip
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("step")


def _levels(axes: Any, run: Run, shot: int, size: Size, colour: str) -> None:
    events = run.result.shots[shot]
    whole = len(run.result.shots) > 1
    axes.set_title(_name(size) + (f", shot {shot + 1}" if whole else ""))
    tables = [events[0]["levels_before"], *(event["levels_after"] for event in events)]
    names = ["start", *(f"{event['step']:g}" for event in events)]
    if len({len(table) for table in tables}) == 1:
        for level in zip(*tables, strict=True):
            axes.plot(range(len(tables)), level, color=colour, linewidth=1, alpha=0.55)
    for place, table in enumerate(tables):
        axes.plot([place] * len(table), table, "_", color=colour, markersize=9, markeredgewidth=1.8)
    shown = range(0, len(tables), max(1, len(tables) // 6))
    axes.set_xticks(list(shown), [names[place] for place in shown])
    axes.set_xlabel("adapted at step")
    axes.margins(x=0.12, y=0.07)
    _level_axis(axes, [abs(level) for table in tables for level in table if level])
    no_grid(axes, "x")


def _level_axis(axes: Any, magnitudes: Sequence[float]) -> None:
    """Show levels that crowd around 0 and still reach 1: linear up to the smallest one's decade, then logarithmic."""
    threshold = 1.0
    while threshold > 1e-6 and threshold > min(magnitudes, default=1.0):
        threshold /= 10
    if threshold < 0.1:
        axes.set_yscale("symlog", linthresh=threshold, linscale=0.5)
        decades = []
        while threshold < 2:
            decades.append(threshold)
            threshold *= 10
        axes.set_yticks(sorted([*decades, 0, *(-decade for decade in decades)]))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()


def _name(size: Size) -> str:
    """Return the title of a panel."""
    layout = f"  ({size.layout})" if size.nodes else ""
    return counted(size.ranks, "rank") + layout


def _line(axes: Any, points: Sequence[Point], values: Sequence[float], number: int, label: str | None = None) -> None:
    ranks = [point.size.ranks for point in points]
    axes.plot(ranks, values, marker=marker_of(number), color=colour_of(number), label=label)


def _rank_axis(axes: Any, comparison: Comparison) -> None:
    ranks = sorted({size.ranks for size in comparison.sizes})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(number) for number in ranks])
    axes.minorticks_off()
    axes.set_xlim(ranks[0] / 1.3, ranks[-1] * 1.3)
    axes.set_xlabel("ranks")


def _speed_axis(axes: Any, comparison: Comparison) -> None:
    """Make the y axis logarithmic with plain numbers at 1, 2 and 5 of every decade; linear where nothing scales."""
    if not comparison.selection.scaling:
        axes.set_ylim(bottom=0)
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    ticks = [
        digit * 10.0**power for power in range(-4, 12) for digit in (1, 2, 5) if low <= digit * 10.0**power <= high
    ]
    if len(ticks) > 6:
        ticks = [tick for tick in ticks if f"{tick:e}".startswith("1")]
    axes.set_yticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.minorticks_off()
