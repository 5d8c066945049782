"""One picture of quantised weights: where the weights of the largest layers are, and where their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alq_hvd.errors import BackendUnavailable, ConfigurationError
from alq_hvd.weights.measurement import Measured

_LAYERS, _COLUMNS, _BINS, _SHOWN = 6, 3, 120, 0.9995


def save_plot(path: Path, weights: Mapping[str, Any], rows: Sequence[Measured]) -> None:
    """Write the picture to ``path``, whose suffix chooses the format.

    Args:
        weights: tensors by name.
        rows: what one scheme does to each.

    Raises:
        BackendUnavailable: when matplotlib is not installed.
        ConfigurationError: when ``path`` cannot be written or its suffix is unknown.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendUnavailable("--plot needs matplotlib: pip install 'alq-hvd[report]'") from error
    largest = sorted(rows, key=lambda row: -row.elements)[:_LAYERS]
    columns = min(_COLUMNS, len(largest))
    lines = -(-len(largest) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.2 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    for place, row in enumerate(largest, start=1):
        axes = figure.add_subplot(lines, columns, place)
        values = weights[row.name].detach().float().numpy().ravel()
        reach = float(np.quantile(np.abs(values), _SHOWN)) * 1.1 or 1.0
        axes.hist(values, bins=_BINS, range=(-reach, reach), color="tab:blue", alpha=0.6)
        for value in row.values:
            axes.axvline(value, color="black", linewidth=0.8)
        edge = max(reach, *(abs(value) for value in row.values)) if row.scales else reach
        axes.set_xlim(-1.05 * edge, 1.05 * edge)
        axes.set_title(f"{row.name}\n{row.elements:,} weights, error {row.relative_error:.3g}", fontsize=9)
        axes.set_yticks([])
    figure.suptitle(
        f"{rows[0].scheme}, {rows[0].bits} bits: how many weights are where (bars), and their values (lines)"
    )
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--plot {path}: {error}") from None
