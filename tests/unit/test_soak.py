"""The soak finds what it is there for: what grows, who drifts apart, what becomes slow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import soak


def rank(**changes: Any) -> dict[str, Any]:
    """Return what a rank tells of a quiet run; ``changes`` are added to the last note, or to the last quarter."""
    still = {"resident_bytes": 10**8, "handles": 40, "threads": 9, "state_bytes": 5000}
    notes = [{"step": 10 * n, "checksum": n, "history": min(5 * n, 100), **still} for n in range(1, 41)]
    seconds = [{"p10": 20.0, "p50": 30.0} for _ in range(4)]
    slower = changes.pop("slower", 0)
    seconds[-1] = {"p10": 20.0 + slower, "p50": 30.0 + slower}
    for name, more in changes.items():
        notes[-1][name] += more
    return {"notes": notes, "seconds": seconds, "processor_seconds": seconds, "fits": 200}


def test_a_quiet_run_is_without_findings_and_everything_that_grows_is_one() -> None:
    figures, found = soak.judge([rank(), rank()])
    assert found == [] and figures["steps"] == 400 and figures["checksums_compared"] == 40
    for change, text in (
        ({"checksum": 1}, "weights differ"),
        ({"resident_bytes": 3 * 10**6}, "resident_bytes grows"),
        ({"handles": 1}, "handles grows"),
        ({"threads": 1}, "threads grows"),
        ({"history": 1}, "more than 100 fits are remembered"),
        ({"state_bytes": 500}, "state_bytes grows"),
        ({"slower": 6}, "steps of rank 1 become slower"),
    ):
        (told,) = soak.judge([rank(), rank(**change)])[1]
        assert text in told
