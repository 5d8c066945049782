"""Figures that sit inside a page: vector graphics whose colours are the page's own, so that they follow its theme."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from alq_hvd import backends

THEME = {"ink": "#1c2a38", "soft": "#5f6b79", "grid": "#dfe4ea"}
"""Colours of a figure's frame -> the same name with two dashes is the page's variable for it."""
METHOD_COLOURS = ("#5b6574", "#2f86c1", "#d4581c", "#2f9566", "#8459b3", "#a8822a")
PART_COLOURS = {
    "compute": "#ccd3db",
    "encode": "#efb136",
    "exchange": "#3f9e96",
    "decode": "#bf4e8c",
    "adapt": "#6d5ab4",
}
MARKERS = ("o", "s", "D", "^", "v", "P")
PANEL_INCHES = (3.15, 2.75)
COLUMNS = 3
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": THEME["ink"],
    "axes.edgecolor": THEME["soft"],
    "axes.labelcolor": THEME["soft"],
    "axes.titlecolor": THEME["ink"],
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "grid.color": THEME["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": THEME["soft"],
    "ytick.color": THEME["soft"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.labelcolor": THEME["ink"],
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
    "svg.fonttype": "path",
}

Draw = Callable[[Any], None]
"""Draws into a matplotlib ``Axes``."""


def variables() -> dict[str, str]:
    """Return the page's colour variables, in the light theme, by name."""
    methods = {f"method-{number}": colour for number, colour in enumerate(METHOD_COLOURS)}
    return {**THEME, **methods, **{f"part-{part}": colour for part, colour in PART_COLOURS.items()}}


def colour_of(number: int) -> str:
    """Return the colour of the ``number``-th method."""
    return METHOD_COLOURS[number % len(METHOD_COLOURS)]


def marker_of(number: int) -> str:
    """Return the marker of the ``number``-th method: colours alone do not survive a grey print."""
    return MARKERS[number % len(MARKERS)]


def panels(draws: Sequence[Draw], columns: int = COLUMNS, height: float = PANEL_INCHES[1], legend: bool = True) -> str:
    """Draw panels side by side, ``columns`` in a row, and return them as one ``<svg>``.

    Args:
        draws: one a panel.
        height: of a panel, inches.
        legend: put one legend for all panels above them, with what the first labelled one shows.

    Raises:
        BackendUnavailable: without matplotlib.
    """
    matplotlib = backends.require("matplotlib")
    figures = backends.require("matplotlib.figure")
    columns = max(2, min(columns, len(draws)))  # one panel alone would be stretched out of shape
    rows = math.ceil(len(draws) / columns)
    with matplotlib.rc_context(_STYLE):
        size = (PANEL_INCHES[0] * COLUMNS, height * rows + 0.3 * legend)
        figure = figures.Figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, wspace=0.06, hspace=0.08)
        grid = figure.add_gridspec(rows, columns)
        labelled: dict[str, Any] = {}
        for place, draw in enumerate(draws):
            axes = figure.add_subplot(grid[divmod(place, columns)])
            draw(axes)
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                labelled.setdefault(label, handle)
        if legend and labelled:
            figure.legend(
                labelled.values(), labelled.keys(), loc="outside upper left", ncols=6, handlelength=1.6,
                columnspacing=1.6, borderaxespad=0.2,
            )  # fmt: skip
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(text.getvalue())


def no_grid(axes: Any, axis: str) -> None:
    """Take away the grid lines of one axis."""
    axes.grid(visible=False, axis=axis)


def _inline(svg: str) -> str:
    """Return what an HTML page can hold of an SVG file, with the colours of ``variables`` replaced by the page's."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg ([^>]*?)(?:width="[^"]*" |height="[^"]*" )+', r"<svg \1", svg, count=1)
    svg = re.sub(r' height="[\d.]+pt"| width="[\d.]+pt"', "", svg, count=2)
    for name, colour in variables().items():
        svg = svg.replace(colour, f"var(--{name})")
    return re.sub(r"\n\s*", "\n", svg)
