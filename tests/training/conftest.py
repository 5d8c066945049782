"""Make ``examples/`` importable, and hand tests the three stored results of a demo."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
GOLDEN = Path(__file__).with_name("golden")
sys.path.insert(0, str(EXAMPLES))


@pytest.fixture
def stored_results() -> list[dict[str, Any]]:
    """Return what a demo of three runs wrote; invented numbers, the real shape."""
    results: list[dict[str, Any]] = json.loads((GOLDEN / "results.json").read_text())
    return results
