"""Every row of docs/explanation/reliability.md names a test, and the test exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "reliability.md").read_text()
TESTS = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}


def test_every_row_names_a_test_that_exists() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and not line.startswith(("|---", "| situation"))]
    assert len(rows) > 10
    for row in rows:
        shown_by = row.rstrip("| ").rsplit("|", 1)[1]
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", shown_by)
        assert named or shown_by.strip() == "the same", f"no test in {row}"
        for file, test in named:
            assert f"def {test}(" in TESTS.get(file, ""), f"{file} has no {test}"
