"""Which runs are compared: those that trained the same thing; every other one is named with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alq_hvd.errors import RunRecordError
from alq_hvd.run_record import RESULT_FILE, STEPS_FILE, Run, read_run

STRONG, WEAK = "strong", "weak"
KINDS = (STRONG, WEAK)
_SAME = ("model", "parameters", "dataset", "examples")
"""What all compared runs must share."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Hold the runs of one comparison.

    Attributes:
        runs: at least one.
        scaling: ``"strong"`` when all share a batch size, ``"weak"`` when they share that of a rank; ``""`` when all
            have as many ranks.
        left_out: a sentence for every run or folder that could not be used.
    """

    runs: tuple[Run, ...]
    scaling: str
    left_out: tuple[str, ...]


def select(places: Iterable[Path], scaling: str | None = None) -> Selection:
    """Read the runs at ``places`` and keep those that belong together.

    Args:
        places: folders of runs, or folders of such folders.
        scaling: ``"strong"`` or ``"weak"``; ``None`` takes the one that fits more of the runs.

    Raises:
        RunRecordError: when no run can be used, with the reason for each.
    """
    runs: list[Run] = []
    left_out: list[str] = []
    for place in places:
        for directory in find_runs(place):
            if any(directory.resolve() == run.directory.resolve() for run in runs):
                continue
            try:
                runs.append(read_run(directory))
            except RunRecordError as error:
                left_out.append(str(error))
    runs = _majority(runs, lambda run: tuple(getattr(run.result, name) for name in _SAME), _differences, left_out)
    runs, found = _same_batch(runs, scaling, left_out)
    if not runs:
        raise RunRecordError("no run to report on:\n" + "\n".join(f"  {reason}" for reason in left_out))
    return Selection(tuple(runs), found, tuple(left_out))


def find_runs(place: Path) -> list[Path]:
    """Return ``place`` itself, or, where it is no run but holds some, their folders in order of name."""
    if not place.is_dir() or _is_run(place):
        return [place]
    inside = sorted(path for path in place.iterdir() if path.is_dir() and _is_run(path))
    return inside or [place]


def _is_run(directory: Path) -> bool:
    return (directory / RESULT_FILE).exists() or (directory / STEPS_FILE).exists()


def _same_batch(runs: Sequence[Run], scaling: str | None, left_out: list[str]) -> tuple[list[Run], str]:
    """Keep the runs of one batch size, of all ranks together or of each."""
    rules: dict[str, Callable[[Run], Hashable]] = {
        STRONG: lambda run: run.result.batch_size,
        WEAK: lambda run: run.result.batch_size / run.result.world_size,
    }
    if scaling is None:
        scaling = max(KINDS, key=lambda kind: _count_of_largest(map(rules[kind], runs)))
    whose = {STRONG: "batch size of all ranks", WEAK: "batch size of a rank"}[scaling]

    def difference(run: Run, others: Run) -> str:
        own, other = rules[scaling](run), rules[scaling](others)
        return f"{whose} {own:g}, others {other:g}: pass --scaling, or report on it apart"

    kept = _majority(runs, rules[scaling], difference, left_out)
    return kept, scaling if len({run.result.world_size for run in kept}) > 1 else ""


def _majority(
    runs: Sequence[Run],
    key: Callable[[Run], Hashable],
    difference: Callable[[Run, Run], str],
    left_out: list[str],
) -> list[Run]:
    """Return the runs whose key is the most frequent one, the first of equals; explain the others."""
    if not runs:
        return []
    counted = Counter(map(key, runs))
    usual = max(counted, key=lambda value: counted[value])
    kept = [run for run in runs if key(run) == usual]
    for run in runs:
        if key(run) != usual:
            left_out.append(f"{run.directory}: does not belong to the others: {difference(run, kept[0])}")
    return kept


def _differences(run: Run, others: Run) -> str:
    named = [(name, getattr(run.result, name), getattr(others.result, name)) for name in _SAME]
    return "; ".join(f"{name} {own!r}, others {other!r}" for name, own, other in named if own != other)


def _count_of_largest(values: Iterable[Hashable]) -> int:
    return max(Counter(values).values(), default=0)
