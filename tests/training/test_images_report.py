"""The table is what is stored beside this file, and the picture is a picture."""

from __future__ import annotations

import copy
import struct
from pathlib import Path
from typing import Any

import pytest
from images.picture import DOTS_PER_INCH, SIZE_INCHES, draw
from images.report import table

GOLDEN = Path(__file__).with_name("golden")
Results = list[dict[str, Any]]


def test_the_table_is_the_golden_one(stored_results: Results) -> None:
    assert table(stored_results) + "\n" == (GOLDEN / "table.txt").read_text()


def test_a_refused_adaptation_says_why(stored_results: Results) -> None:
    event = stored_results[2]["adaptations"][1]
    event.update(accepted=False, reason="the objective would rise")
    assert "kept the old ones (the objective would rise)" in table(stored_results)


def test_one_stock_run_alone_has_no_levels_and_no_speed_claim(stored_results: Results) -> None:
    text = table(stored_results[1:2])
    assert "levels of" not in text
    assert "relative to fp32" not in text
    assert "adaptations included" not in text


@pytest.mark.parametrize("case", ["three runs", "stock only", "many adaptations", "one run, one epoch"])
def test_the_picture_is_a_png_of_the_stated_size(stored_results: Results, tmp_path: Path, case: str) -> None:
    results = copy.deepcopy(stored_results)
    if case == "stock only":
        results = results[:2]
    elif case == "many adaptations":
        results[2]["adaptations"] *= 4
        results[2]["adaptations"][0]["levels_after"] = [-1.0, 0.0, 1.0]  # a table of another length
        results[2]["adaptations"][-1]["accepted"] = False
    elif case == "one run, one epoch":
        results = [{**results[2], "accuracy": [[1, 0.5]], "variance": []}]
    content = draw(results, tmp_path / "new" / "comparison.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == tuple(round(inches * DOTS_PER_INCH) for inches in SIZE_INCHES)
    assert len(content) > 20_000
