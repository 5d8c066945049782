"""The tables beside the figures: the same numbers, to copy and to check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alq_hvd.report.comparison import Comparison, Point
from alq_hvd.run_record import PARTS, Run
from alq_hvd.run_record.fields import COMPUTED

NONE = "–"
NOT_RECORDED = "not recorded"


@dataclass(frozen=True, slots=True)
class Table:
    """Hold a table; the first ``texts`` columns are words, the others are numbers."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1


def scaling(comparison: Comparison) -> Table:
    """Return throughput, speed-up and efficiency of every point."""
    headings = ["method", "nodes × ranks", "ranks", "examples/s", "middle half of steps", "speed-up", "efficiency",
                "× fp32 there", "runs"]  # fmt: skip
    rows = []
    for point in comparison.points:
        low_high = f"{number(point.quartiles[0])} – {number(point.quartiles[1])}" if point.quartiles else NONE
        rows.append(
            [
                *_place(point),
                number(point.examples_per_second),
                low_high,
                f"{point.speed_up:.2f}",
                f"{100 * point.efficiency:.1f} %",
                NONE if point.against_plain is None else f"{point.against_plain:.2f}",
                str(len(point.runs)),
            ]
        )
    return Table(headings, rows, texts=2)


def traffic(comparison: Comparison) -> Table:
    """Return bytes and parts of a step of every point."""
    parts = [f"{part} ms" for part in PARTS]
    headings = ["method", "nodes × ranks", "ranks", "bytes sent per step and rank", "step ms", *parts]
    rows = []
    for point in comparison.points:
        seconds = point.seconds_per_step
        mark = " *" if point.bytes_are == COMPUTED else ""
        stock = point.bytes_are == COMPUTED
        shown = [NONE if stock and part not in ("compute", "exchange") else _ms(seconds[part]) for part in PARTS]
        rows.append([*_place(point), f"{point.bytes_per_step:,.0f}{mark}", _ms(sum(seconds.values())), *shown])
    return Table(headings, rows, texts=2)


def accuracy(comparison: Comparison) -> Table:
    """Return the accuracy at the end and the last loss of every point."""
    rows = []
    for point in comparison.points:
        losses = [curve[-1][1] for run in point.runs if (curve := run.curve("step", "loss"))]
        loss = f"{sum(losses) / len(losses):.4g}" if losses else NOT_RECORDED
        shown = NOT_RECORDED if point.accuracy is None else f"{100 * point.accuracy:.2f} %"
        seeds = ", ".join(str(run.result.seed) for run in point.runs)
        steps = ", ".join(sorted({f"{run.result.steps:,}" for run in point.runs}))
        rows.append([*_place(point), shown, loss, steps, seeds])
    return Table(["method", "nodes × ranks", "ranks", "accuracy", "last loss", "steps", "seeds"], rows, texts=2)


def adaptations(run: Run, shot: int) -> Table:
    """Return every adaptation of one shot of a run."""
    rows = []
    for event in run.result.shots[shot]:
        verdict = (
            "adopted" if event.get("accepted") else f"kept the old ones ({event.get('reason', 'no reason given')})"
        )
        change = f"{event['objective_before']:.3g} → {event['objective_after']:.3g}"
        levels = " ".join(f"{level:+.4g}" for level in event["levels_after"])
        rows.append([f"{event['step']:g}", change, verdict, levels])
    return Table(["step", "objective", "levels", "values afterwards"], rows, texts=4)


def break_even(comparison: Comparison) -> Table:
    """Return what was predicted and chosen, for every run that measured it; without rows where none did."""
    rows = []
    for point in comparison.points:
        for run in point.runs:
            decision = run.result.document.get("break_even")
            if decision is not None:
                times = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in decision["seconds"].items())
                chosen = str(decision.get("choice"))
                meaning = "plain Horovod: compression would not pay" if chosen == "fp32" else chosen
                rows.append([*_place(point), meaning, times])
    return Table(["method", "nodes × ranks", "ranks", "chosen", "predicted for the communication of a step"], rows, 5)


def machines(comparison: Comparison) -> Table:
    """Return every kind of node, with the hosts that are of it."""
    kinds: dict[tuple[str, ...], dict[str, None]] = {}
    for run in comparison.selection.runs:
        for node in run.result.nodes:
            kinds.setdefault(_kind(node), {})[str(node["host"])] = None
    rows = [[", ".join(hosts), *kind] for kind, hosts in kinds.items()]
    return Table(["hosts", "processor", "cores", "memory", "GPUs", "system"], rows, texts=6)


def software(comparison: Comparison) -> Table:
    """Return every version that the runs recorded; where they differ, all of them."""
    found: dict[str, dict[str, list[str]]] = {}
    for run in comparison.selection.runs:
        document = run.result.document
        recorded = {**(document.get("software") or {}), "commit of the program": document.get("commit") or NONE}
        for name, version in recorded.items():
            found.setdefault(name, {}).setdefault(str(version), []).append(run.directory.name)
    rows = []
    for name, versions in found.items():
        if len(versions) == 1:
            rows.append([name, next(iter(versions))])
        else:
            rows.append([name, "; ".join(f"{version} ({', '.join(runs)})" for version, runs in versions.items())])
    return Table(["software", "version"], rows, texts=2)


def runs(comparison: Comparison) -> Table:
    """Return every run with what it cost."""
    headings = ["run", "method", "exchange", "started (UTC)", "job", "resumed after step", "ranks", "seconds",
                "node-hours"]  # fmt: skip
    rows = []
    for point in comparison.points:
        for run in point.runs:
            document, seconds = run.result.document, run.result.document.get("train_seconds")
            job = document.get("job") or {}
            hours = f"{point.size.nodes * seconds / 3600:.3g}" if seconds and point.size.nodes else NOT_RECORDED
            rows.append(
                [
                    str(run.directory),
                    point.method,
                    str(document.get("exchange") or NONE) if run.result.bits else NONE,
                    str(document.get("started", NOT_RECORDED)).removesuffix("+00:00").replace("T", " "),
                    str(job.get("SLURM_JOB_ID", NONE)),
                    ", ".join(map(str, document.get("resumed") or [])) or NONE,
                    str(point.size.ranks),
                    f"{seconds:,.1f}" if seconds else NOT_RECORDED,
                    hours,
                ]
            )
    return Table(headings, rows, texts=6)


def number(value: float) -> str:
    """Return three or more significant digits, with thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _place(point: Point) -> list[str]:
    return [point.method, point.size.layout, str(point.size.ranks)]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def _kind(node: Any) -> tuple[str, ...]:
    gpus = node.get("gpus")
    names = sorted(set(gpus)) if gpus else []
    memory = node.get("memory_bytes")
    return (
        str(node.get("processor", NOT_RECORDED)),
        str(node.get("cores", NOT_RECORDED)),
        f"{memory / 2**30:.0f} GiB" if isinstance(memory, (int, float)) else NOT_RECORDED,
        NOT_RECORDED if gpus is None else ", ".join(f"{gpus.count(name)} × {name}" for name in names) or "none",
        str(node.get("system", NOT_RECORDED)),
    )
