"""One picture of the benchmark: loss by weight and gradient bits, and the floor of the linear model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot


def draw(summary: dict[str, Sequence[dict[str, Any]]], path: Path) -> None:
    """Write the picture to ``path``."""
    networks = sorted({row["architecture"] for row in summary["wire"]}, reverse=True)
    figure, axes = pyplot.subplots(1, len(networks) + 1, figsize=(5 * len(networks) + 5, 4.4), layout="constrained")
    for axis, network in zip(axes, networks, strict=False):
        rows = [row for row in summary["wire"] if row["architecture"] == network]
        wires = sorted(dict.fromkeys(row["wire"] for row in rows), key=lambda wire: wire == "FP")  # as it is: last
        for place, weights in enumerate(dict.fromkeys(row["weights"] for row in rows)):
            own = {row["wire"]: row for row in rows if row["weights"] == weights}
            axis.errorbar(
                [at + 0.08 * (place - 1.5) for at in range(len(wires))],
                [own[wire]["last_loss"] for wire in wires],
                [own[wire]["last_loss_error"] for wire in wires],
                marker="o", capsize=3, label=f"weights {weights}",
            )  # fmt: skip
        axis.set_xticks(range(len(wires)), wires)
        axis.set(title=f"digits, {network}", xlabel="gradients on the wire", ylabel="training loss, last epoch")
        axis.grid(alpha=0.3)
        axis.legend()
    axis = axes[-1]
    for case in dict.fromkeys((row["weights"], row["wire"]) for row in summary["linear"]):
        own = [row for row in summary["linear"] if (row["weights"], row["wire"]) == case]
        axis.errorbar(
            [row["dimension"] for row in own], [row["last"] for row in own], [row["last_error"] for row in own],
            marker="o", capsize=3, linestyle="--" if case[1].startswith("SQ2") else "-", label=f"{case[0]}, {case[1]}",
        )  # fmt: skip
    axis.set(title="linear model: floor", xlabel="dimension d", ylabel="loss, last fifth of the steps", xscale="log",
             yscale="log")  # fmt: skip
    dimensions = sorted({row["dimension"] for row in summary["linear"]})
    axis.set_xticks(dimensions, list(map(str, dimensions)))
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=110)
