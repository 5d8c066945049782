"""One self-contained HTML page out of a comparison."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from alq_hvd import backends
from alq_hvd.report import drawing, figures, tables
from alq_hvd.report.comparison import Comparison, counted, software_differences
from alq_hvd.report.selection import STRONG, WEAK
from alq_hvd.version import __version__

_TEMPLATE, _STYLE = "page.html.j2", "style.css"
_RULES = {
    STRONG: "strong scaling: every run has the same {:,} examples in a step, shared by its ranks",
    WEAK: "weak scaling: every rank has the same {:g} examples in a step, whatever their number",
    "": "all runs have the same number of ranks: a comparison of methods, not of sizes",
}
_OPTIONAL = {
    "nodes": "hosts, so neither nodes nor node-hours are known",
    "software": "software versions",
    "commit": "the commit of the program",
    "started": "when it started",
    "train_seconds": "how long it took",
}


def render(comparison: Comparison, made: str) -> str:
    """Return the page; nothing in it is fetched from anywhere.

    Args:
        made: when, for the reader.

    Raises:
        BackendUnavailable: without matplotlib or Jinja2.
    """
    jinja2 = backends.require("jinja2")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    safe = backends.require("markupsafe").Markup
    template = (files(__package__) / _TEMPLATE).read_text(encoding="utf-8")
    style = (files(__package__) / _STYLE).read_text(encoding="utf-8")
    colours = "; ".join(f"--{name}: {colour}" for name, colour in drawing.variables().items())
    page: str = environment.from_string(template).render(
        style=safe(style.replace("/* colours */", colours + ";")),
        comparison=comparison,
        first=comparison.selection.runs[0].result,
        rule=scaling_rule(comparison),
        tables=tables,
        figures={name: safe(svg) for name, svg in _figures(comparison).items()},
        level_figures={
            method: safe(svg) for method in comparison.methods if (svg := figures.levels(comparison, method))
        },
        tiles=_tiles(comparison),
        gaps=gaps(comparison),
        number=tables.number,
        counted=counted,
        made=made,
        version=__version__,
    )
    return page


def scaling_rule(comparison: Comparison) -> str:
    """Say which kind of scaling the runs show."""
    first = comparison.selection.runs[0].result
    kind = comparison.selection.scaling
    return _RULES[kind].format(first.batch_size / first.world_size if kind == WEAK else first.batch_size)


def gaps(comparison: Comparison) -> list[str]:
    """Return a sentence for everything that is not on the page, or that makes numbers hard to compare."""
    runs = comparison.selection.runs
    found = [f"left out: {reason}" for reason in comparison.selection.left_out]
    found += [f"no data: {reason}" for reason in comparison.missing]
    found += [run.note for run in runs if run.note]
    for name, meaning in _OPTIONAL.items():
        without = [str(run.directory) for run in runs if not run.result.document.get(name)]
        if without:
            found.append(f"not recorded: {meaning}: {_some(without)}")
    for name, versions in software_differences(runs).items():
        found.append(f"the runs do not share one version of {name}: {', '.join(versions)}")
    changed = [str(run.directory) for run in runs if str(run.result.document.get("commit") or "").endswith("+")]
    if changed:
        found.append(f"the program had changes that are in no commit: {_some(changed)}")
    steps = sorted({run.result.steps for run in runs})
    if len(steps) > 1:
        counts = ", ".join(f"{count:,}" for count in steps)
        found.append(f"runs have different numbers of steps ({counts}): do not compare their accuracy")
    if all(run.result.document.get("break_even") is None for run in runs):
        found.append("no run measured whether compression pays (break_even)")
    return found


def _figures(comparison: Comparison) -> dict[str, str]:
    return {
        "scaling": figures.scaling(comparison),
        "traffic": figures.traffic(comparison),
        "split": figures.split(comparison),
        "loss": figures.curves(comparison, "step", "loss"),
        "accuracy": figures.curves(comparison, "epoch", "test_accuracy", unit=100),
    }


def _tiles(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the figures of every method at the largest size it has reached."""
    return [{"colour": f"var(--method-{number % len(drawing.METHOD_COLOURS)})", "point": comparison.of(method)[-1]}
            for number, method in enumerate(comparison.methods)]  # fmt: skip


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
