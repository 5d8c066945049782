"""One picture out of the results of several runs: accuracy, bytes, variance, step time and levels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display is needed, or asked for

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from alq_hvd.run_record import PARTS
from images.levels_plot import draw_levels
from images.report import Result, headline, late_variance, number

RUN_COLOURS = ("#5b6573", "#3f8fc4", "#d8602a", "#3a9d6e", "#8a63b8", "#b8932f")
"""One a run, in order; distinguishable by colour-blind readers and in grey print."""

PART_COLOURS = dict(zip(PARTS, ("#d5dae0", "#f0b43c", "#45a29a", "#c2528b", "#6f5bb5"), strict=True))
SIZE_INCHES = (15.0, 9.6)
DOTS_PER_INCH = 120

STYLE: Any = {
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": "#8a929c",
    "axes.labelcolor": "#3b4450",
    "xtick.color": "#3b4450",
    "ytick.color": "#3b4450",
    "axes.grid": True,
    "grid.color": "#e6e9ed",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def draw(results: Sequence[Result], path: Path) -> Path:
    """Draw the comparison of ``results`` into the PNG file ``path`` and return it."""
    colours = {id(result): RUN_COLOURS[index % len(RUN_COLOURS)] for index, result in enumerate(results)}
    palette = [colours[id(result)] for result in results]
    with pyplot.rc_context(STYLE):
        figure = pyplot.figure(figsize=SIZE_INCHES, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.15, h_pad=0.15, hspace=0.04, wspace=0.04)  # type: ignore[union-attr,call-arg]
        grid = figure.add_gridspec(2, 3, height_ratios=(1, 1.15), width_ratios=(1.15, 1, 1))
        _accuracy(figure.add_subplot(grid[0, 0]), results, palette)
        _bytes(figure.add_subplot(grid[0, 1]), results, palette)
        _variance(figure.add_subplot(grid[0, 2]), results, palette)
        times = grid[1, 0].subgridspec(2, 1)
        whole, rest = figure.add_subplot(times[0]), figure.add_subplot(times[1])
        _step_time(whole, results, PARTS, "Step time")
        _step_time(rest, results, PARTS[1:], "Step time without compute")
        adapted = [result for result in results if result["adaptations"]]
        levels = figure.add_subplot(grid[1, 1:])
        draw_levels(levels, adapted[0] if adapted else None, colours[id(adapted[0])] if adapted else "")
        figure.suptitle(headline(results).replace("\n", " "), fontsize=11, color="#3b4450")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white")
        pyplot.close(figure)
    return path


def _accuracy(axes: Axes, results: Sequence[Result], colours: Sequence[str]) -> None:
    axes.set_title("Test accuracy")
    for result, colour in zip(results, colours, strict=True):
        epochs = [epoch for epoch, _ in result["accuracy"]]
        values = [100 * value for _, value in result["accuracy"]]
        label = f"{result['label']}  {values[-1]:.2f} %"
        axes.plot(epochs, values, marker="o", markersize=4.5, linewidth=1.8, color=colour, label=label)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
    axes.legend(loc="lower right")


def _bytes(axes: Axes, results: Sequence[Result], colours: Sequence[str]) -> None:
    axes.set_title("Sent per step and rank (kB)")
    sizes = [result["bytes_per_step"] / 1e3 for result in results]
    bars = axes.bar(range(len(results)), sizes, color=colours, width=0.62)
    axes.bar_label(bars, [f"{size:,.0f}" for size in sizes], padding=3, color="#3b4450")
    axes.set_xticks(range(len(results)), [_label(result) for result in results])
    axes.margins(y=0.12)
    axes.grid(visible=False, axis="x")


def _variance(axes: Axes, results: Sequence[Result], colours: Sequence[str]) -> None:
    axes.set_title("Quantisation variance  E|Q(g) - g|² / |g|²")
    for result, colour in zip(results, colours, strict=True):
        label = f"{result['label']}  {number(late_variance(result))}"
        steps = [step for step, value in result["variance"] if value > 0]
        values = [value for _, value in result["variance"] if value > 0]
        axes.plot(steps, values, linewidth=1.6, color=colour, label=label)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(loc="center right")


def _step_time(axes: Axes, results: Sequence[Result], parts: Sequence[str], title: str) -> None:
    axes.set_title(title)
    rows = range(len(results))
    left = [0.0] * len(results)
    for part in parts:
        widths = [1e3 * result["seconds_per_step"][part] for result in results]
        axes.barh(rows, widths, left=left, height=0.6, color=PART_COLOURS[part], label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for row, total in zip(rows, left, strict=True):
        axes.annotate(f"{total:.1f} ms", (total, row), (5, 0), textcoords="offset points", va="center")
    axes.set_yticks(rows, [str(result["label"]) for result in results])
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("ms")
    if len(parts) == len(PARTS):
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=len(parts),
            borderaxespad=0,
            columnspacing=0.9,
            handlelength=0.9,
            handletextpad=0.4,
        )
        axes.set_title(title, pad=26)


def _label(result: Result) -> str:
    return f"{result['label']}\n(computed)" if result["bytes_are"] == "computed" else str(result["label"])
