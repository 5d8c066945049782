"""One picture of a table of levels: where the coordinates are, where the levels are, and where the error comes from."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from alq_hvd.codec.measurement import chunks
from alq_hvd.codec.reference import ReferenceCodec
from alq_hvd.errors import BackendUnavailable, ConfigurationError
from alq_hvd.quantiser.config import QuantiserConfig
from alq_hvd.quantiser.levels import Levels
from alq_hvd.quantiser.policies.distributions import Moments, PiecewiseUniform
from alq_hvd.quantiser.policies.dynamic_programming import clamp_costs, interval_costs
from alq_hvd.quantiser.statistics import BINS, GradientStatistics, bin_edges

_MERGED_BINS = 4


def save_plot(path: Path, values: npt.NDArray[np.float32], config: QuantiserConfig, levels: Levels, title: str) -> None:
    """Write the picture of ``levels`` on the gradient float32[n] to ``path``; its suffix chooses the format.

    Raises:
        BackendUnavailable: when matplotlib is not installed.
        ConfigurationError: when ``path`` cannot be written or its suffix is unknown.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendUnavailable("--plot needs matplotlib: pip install 'alq-hvd[report]'") from error
    statistics = GradientStatistics.empty(2)
    for chunk in chunks(values, config.bucket_size):
        statistics += ReferenceCodec().statistics(chunk, config, 2)
    if not statistics.usable:
        raise ConfigurationError("--plot: every bucket is zero in float32, there is nothing to draw")
    distribution = PiecewiseUniform.from_statistics(statistics)
    table = levels.values.astype(np.float64)
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)

    edges = bin_edges()[: BINS // 2 : _MERGED_BINS]
    tallest = 0.0
    for side in (edges, -edges[::-1]):
        octaves = np.abs(np.diff(np.log2(np.abs(side))))
        share = np.diff(distribution.cumulative(side).mass) / octaves
        upper.stairs(
            share, side, fill=True, color="tab:blue", alpha=0.5, label="weight per octave" if side is edges else None
        )
        tallest = max(tallest, float(share.max()))
    upper.set_ylim(0, 1.25 * tallest)
    upper.set_ylabel("coordinates, weighted by norm²")
    upper.set_title(title)

    cuts = np.unique(np.concatenate([[-1.0], table, [1.0]]))
    below = distribution.cumulative(cuts)
    costs = interval_costs(
        cuts[:-1], cuts[1:], Moments(*(part[:-1] for part in below)), Moments(*(part[1:] for part in below))
    )
    under, over = clamp_costs(distribution, table[[0, -1]])
    if table[0] > -1:
        costs[0] = under[0]
    if table[-1] < 1:
        costs[-1] = over[1]
    lower.stairs(costs / costs.sum(), cuts, fill=True, color="tab:orange", alpha=0.6, label="share of the error")
    lower.set_ylim(0, 1.25 * float(costs.max() / costs.sum()))
    lower.set_ylabel("error, per bin between levels")
    lower.set_xlabel("normalised coordinate r = g / norm of its bucket")

    near_zero = float(distribution.cumulative(-edges[-1]).mass - distribution.cumulative(edges[-1]).mass)
    upper.plot([], [], " ", label=f"{near_zero:.1%} nearer to zero than {-edges[-1]:.1g}")
    threshold = max(2.0**-14, 10 ** math.floor(math.log10(float(np.median(np.abs(table))) / 10)))
    for axes in (upper, lower):
        for index, level in enumerate(table):
            axes.axvline(level, color="black", linewidth=0.8, label="levels" if index == 0 else None)
        axes.set_xscale("symlog", linthresh=threshold, linscale=0.5)
        axes.set_xlim(-1.1, 1.1)
        axes.legend(loc="upper center", ncols=3)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--plot {path}: {error}") from None
