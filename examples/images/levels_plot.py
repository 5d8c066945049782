"""The levels before and after every adaptation, as ticks on one axis a table, joined by lines."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from images.report import Result, objective

_BEFORE = "#a3abb5"
_MOST = 6
"""Adaptations that fit into the panel legibly; of more, the first and the last ones are shown."""


def draw_levels(axes: Axes, result: Result | None, colour: str) -> None:
    """Draw the adaptations of ``result`` downwards: old levels grey, new levels in ``colour``."""
    if result is None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no levels were adapted in these runs", ha="center", va="center", color=_BEFORE)
        return
    events = result["adaptations"]
    title = f"Levels of {result['label']} before and after every adaptation"
    if len(events) > _MOST:
        title += f" (first and last {_MOST - 1} of {len(events)})"
        events = [events[0], *events[1 - _MOST :]]
    axes.set_title(title)
    positions, labels = [], []
    for index, event in enumerate(events):
        upper, lower = 3.0 * index, 3.0 * index + 1.2
        before, after = event["levels_before"], event["levels_after"]
        _ticks(axes, before, upper, _BEFORE)
        _ticks(axes, after, lower, colour)
        if len(before) == len(after):
            for old, new in zip(before, after, strict=True):
                axes.plot((old, new), (upper, lower), color=_BEFORE, linewidth=0.8, zorder=1)
        verdict = "" if event["accepted"] else "not adopted, "
        change = verdict + objective(event).replace("->", "→")
        middle = (upper + lower) / 2
        axes.annotate(
            change,
            (1, lower),
            (0, -9),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=9,
            color="#3b4450",
        )
        positions.append(middle)
        labels.append(f"step {event['step']}")
    _scale(axes, [level for event in events for level in (*event["levels_before"], *event["levels_after"])])
    axes.set_ylim(3.0 * len(events) - 0.9, -0.9)
    axes.set_yticks(positions, labels)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(
        "level of a normalised coordinate (linear near 0, logarithmic outside); grey: before, coloured: after"
    )


def _ticks(axes: Axes, levels: Sequence[float], height: float, colour: str) -> None:
    axes.plot((-1, 1), (height, height), color=colour, linewidth=1, alpha=0.5, zorder=2)
    axes.plot(levels, [height] * len(levels), "|", color=colour, markersize=15, markeredgewidth=2.6, zorder=3)


def _scale(axes: Axes, levels: Sequence[float]) -> None:
    # Levels of an L2-normalised bucket crowd around 0 and still reach 1: neither a linear nor a logarithmic axis
    # shows both. The linear part ends at the power of ten below which only the innermost levels lie.
    threshold = 10.0
    smallest = min((abs(level) for level in levels if level), default=1.0)
    while threshold / 10 >= smallest:
        threshold /= 10
    threshold = min(threshold, 0.1)
    axes.set_xscale("symlog", linthresh=threshold, linscale=0.6)
    decades = []
    while threshold <= 1:
        decades.append(threshold)
        threshold *= 10
    ticks = sorted({*decades, 0.0, *(-decade for decade in decades)})
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(-1.35, 1.35)
