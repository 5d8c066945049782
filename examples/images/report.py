"""One table out of the results of several runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from alq_hvd.run_record import PARTS

Result = dict[str, Any]

_LABEL_WIDTH = 30
_COLUMN_WIDTH = 14

FOOTNOTES = """\
test accuracy: one seed; the finite test set alone makes it uncertain by +-{error:.1f} % (one standard error).
bytes sent: mean over all steps of what one rank puts on the network{adaptations}.
  * computed: what a ring allreduce sends, 2 (n - 1) / n of the gradient, n = number of ranks.
quantisation variance: E|Q(g) - g|^2 / |g|^2 of rank 0's own gradients, mean over the second half
  of the run; and at the first step, before any levels were adapted. eden, and what is called rotated, multiplies
  buckets by a random rotation first, after which few bits serve: see docs/explanation/methods.md for when to rotate.
step time: mean over all steps on rank 0, wall clock.
{exchange}
On one machine the ranks share cores and memory and no network is slow: compare the bytes, not the time."""


EXCHANGE_OF_HOROVOD = """\
  exchange is the time in optimizer.synchronize() less the codec's work in it: the wait that the backward pass did not
  hide, waiting for slower ranks included. compute is the rest; the casts of fp16 are in compute and exchange."""
EXCHANGE_OF_DDP = """\
  exchange is what the compression has waited inside the backward pass, for slower ranks included. compute is the rest,
  and all that plain DDP does to average gradients."""


def table(results: Sequence[Result]) -> str:
    """Return the comparison of ``results``, one column a run, with its footnotes."""
    rows = [
        _row("", results, lambda result: str(result["label"])),
        "-" * (_LABEL_WIDTH + _COLUMN_WIDTH * len(results)),
        _row("test accuracy", results, lambda result: f"{100 * result['test_accuracy']:.2f} %"),
        _row("bytes sent per step and rank", results, _bytes),
    ]
    exact = next((result["bytes_per_step"] for result in results if result["compression"] == "fp32"), None)
    if exact:
        rows.append(_row("  relative to fp32", results, lambda result: f"{result['bytes_per_step'] / exact:.3f}"))
    rows.append(_row("quantisation variance", results, lambda result: number(late_variance(result))))
    rows.append(_row("  first step", results, lambda result: number(first_variance(result))))
    rows.append(_row("step time", results, lambda result: _milliseconds(sum(result["seconds_per_step"].values()))))
    for part in PARTS:
        rows.append(_row(f"  {part}", results, partial(_time_of, part)))
    rows.append(_row("training and evaluation", results, lambda result: f"{result['train_seconds']:.0f} s"))
    for result in results:
        rows += _levels(result)
    adapting = any(result["adaptations"] for result in results)
    notes = FOOTNOTES.format(
        adaptations=", adaptations included" if adapting else "",
        error=100 * max(map(sampling_error, results)),
        exchange=EXCHANGE_OF_DDP if _is_ddp(results[0]) else EXCHANGE_OF_HOROVOD,
    )
    return "\n".join([headline(results), "", *rows, "", notes])


def headline(results: Sequence[Result]) -> str:
    """Say what was trained on what."""
    first = results[0]
    return (
        f"{first['dataset']}: {first['train_images']:,} training and {first['test_images']:,} test images; "
        f"{first['model']}, {first['parameters']:,} parameters;\n"
        f"{first['world_size']} ranks, epochs: {first['epochs']}, {first['steps']:,} steps "
        f"of {first['batch_size']} images, seed {first['seed']}"
    )


def late_variance(result: Result) -> float | None:
    """Return the mean relative variance over the second half of the steps, ``None`` when there is no measurement."""
    values = [value for step, value in result["variance"] if 2 * step >= result["steps"]]
    values = values or [value for _, value in result["variance"][-1:]]  # a run too short for more
    return sum(values) / len(values) if values else None


def first_variance(result: Result) -> float | None:
    """Return the relative variance of the first step, before any levels were adapted."""
    return next((float(value) for step, value in result["variance"] if step == 0), None)


def number(value: float | None) -> str:
    """Return ``value`` with three significant digits, a dash for ``None``."""
    if value is None:
        return "-"
    return f"{value:.3g}"


def objective(event: dict[str, Any]) -> str:
    """Say how much an adaptation changes the objective: a fresh table gains orders of magnitude, a good one little."""
    before, after = event["objective_before"], event["objective_after"]
    if not before:
        return f"objective {number(before)} -> {number(after)}"
    return f"objective {number(before)} -> {number(after)} ({100 * (after / before - 1):+.2f} %)"


def sampling_error(result: Result) -> float:
    """Return the standard error of the accuracy that comes from the finite test set alone."""
    accuracy: float = result["test_accuracy"]
    return math.sqrt(accuracy * (1 - accuracy) / float(result["test_images"]))


def _row(label: str, results: Sequence[Result], cell: Callable[[Result], str]) -> str:
    # Two columns at the end of a cell are kept for a footnote mark, so that the numbers stay aligned.
    cells = "".join(f"{text if text.endswith(' *') else text + '  ':>{_COLUMN_WIDTH}}" for text in map(cell, results))
    return f"{label:<{_LABEL_WIDTH}}{cells}".rstrip()


def _bytes(result: Result) -> str:
    return f"{result['bytes_per_step']:,.0f}" + (" *" if result["bytes_are"] == "computed" else "")


def _is_ddp(result: Result) -> bool:
    return result.get("front_end") == "ddp"


def _time_of(part: str, result: Result) -> str:
    seen = ("compute",) if _is_ddp(result) else ("compute", "exchange")
    if result["bytes_are"] == "computed" and part not in seen:
        return "-"
    return _milliseconds(result["seconds_per_step"][part])


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"


def _levels(result: Result) -> list[str]:
    lines = _adaptations(f"levels of {result['label']}", result["adaptations"])
    for number_of_shot, shot in enumerate(result.get("later_shots", ()), start=2):
        title = f"levels of {result['label']}, shot {number_of_shot}: the sums that are sent on"
        lines += _adaptations(title, shot["adaptations"])
    return lines


def _adaptations(title: str, events: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for event in events:
        verdict = "adopted" if event["accepted"] else f"kept the old ones ({event['reason']})"
        lines.append(f"  step {event['step']:>5}: {objective(event)}, {verdict}")
        lines.append(f"    before {_values(event['levels_before'])}")
        lines.append(f"    after  {_values(event['levels_after'])}")
    return ["", title, *lines] if lines else []


def _values(levels: Sequence[float]) -> str:
    return " ".join(f"{level:+.5f}" for level in levels)
