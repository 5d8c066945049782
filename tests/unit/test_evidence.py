"""The page of evidence says what the results say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import evidence


def test_the_page_is_what_the_results_make() -> None:
    """After new results: ``python benchmarks/evidence.py``."""
    assert evidence.PAGE.read_text(encoding="utf-8") == evidence.page()


def test_a_page_that_was_changed_by_hand_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "evidence.md"
    changed.write_text(evidence.page().replace("Evidence", "Proof"))
    monkeypatch.setattr(evidence, "PAGE", changed)
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["evidence.py", "--check"])
    assert evidence.main() == 1
    assert "run it" in capsys.readouterr().err
