"""The picture of ``accumulators.py``: sums, ranks and training side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw what was measured."""
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(15, 4.4), constrained_layout=True)
    if "sums" in result:
        for colour, bits in enumerate((3, 4, 5, 7)):
            for mode, line in (("nearest", "o-"), ("truncate", "x:")):
                rows = [row for row in result["sums"] if row["bits"] == bits and row["mode"] == mode]
                label, terms = f"{bits} bits" if mode == "nearest" else None, [row["terms"] for row in rows]
                left.plot(terms, [row["vrr"] for row in rows], line, color=f"C{colour}", label=label)
            left.plot(terms, [row["vrr_theory"] for row in rows], "--", color=f"C{colour}", alpha=0.6)
        left.set(xscale="log", xlabel="terms", ylabel="variance kept", ylim=(0, 1.2),
                 title="Sums: rounded (o), truncated (x), theory (--)")  # fmt: skip
        left.legend(fontsize=8, loc="lower left")
    if "ranks" in result:
        for name, losses in result["ranks"]["loss"].items():
            wide = {"linewidth": 4, "alpha": 0.35} if name == "fp32" else {}
            middle.plot(losses, "--" if "one sum" in name else "-", label=name, **wide)
        middle.set(xlabel="step", ylabel="training loss", title=f"{result['ranks']['ranks']} simulated ranks")
        middle.legend(fontsize=8)
    if "training" in result:
        rows = result["training"]["rows"]
        for place, row in enumerate(rows):
            right.plot(100 * np.array(row["accuracy"]), [place] * len(row["accuracy"]), "o", color="C0", alpha=0.6)
            right.plot(100 * row["mean"], place, "|", color="black", markersize=16)
        reference = 100 * rows[0]["mean"]
        right.axvspan(reference - 0.5, reference + 0.5, color="C2", alpha=0.2, label="fp32 within 0.5 %")
        right.set_yticks(range(len(rows)), [row["accumulators"] for row in rows])
        right.invert_yaxis()
        right.set(xlabel="test accuracy, %", title=f"ResNet-8, emulated, {len(result['training']['seeds'])} seeds")
        right.legend(fontsize=8, loc="upper left")
    figure.savefig(path, dpi=110)
