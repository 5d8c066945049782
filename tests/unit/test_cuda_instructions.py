"""The kernels' main paths issue no more instructions an element than ``benchmarks/results/sass-sm_90.json`` says."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pytest

from benchmarks import sass
from tests.support.compile_matrix import disassembler
from tests.support.nvrtc import Nvrtc, find

STORED = json.loads((sass.ROOT / "benchmarks" / "results" / "sass-sm_90.json").read_text())


def test_the_stored_counts_reach_their_goals() -> None:
    cases = {case.name: case for case in sass.CASES}
    assert [each["case"] for each in STORED["counts"]] == list(cases)
    for each in STORED["counts"]:
        case = each["case"]
        assert each["instructions"] <= each["goal"] == cases[case].most, case
        assert each["registers"] <= 80, case  # three blocks of 256 threads on a multiprocessor of 65 536
        assert each["spilled"] <= (6 if case.startswith("EDEN encode") else 0), case  # of 2300 a thread


@pytest.mark.timeout(600)
@pytest.mark.skipif(find("13.0") is None, reason="needs the run-time compiler of CUDA 13.0: make compilers")
@pytest.mark.skipif(disassembler() is None, reason="needs nvdisasm, of the wheel nvidia-cuda-nvdisasm")
def test_counts_are_those_that_are_stored() -> None:
    """They are exact, of this compiler: `python benchmarks/sass.py` writes them anew."""
    nvrtc = Nvrtc("13.0")
    assert STORED["compiler"] == f"NVRTC {'.'.join(map(str, nvrtc.getVersion()))}"
    with ThreadPoolExecutor(2) as pool:
        counts = list(pool.map(lambda case: sass.count(nvrtc, "sm_90", case), sass.CASES))
    assert [asdict(each) for each in counts] == STORED["counts"]


def test_marks_of_functions_and_lines() -> None:
    """A function that is marked is so to its end; so is a line that is no function."""
    marks = sass.marks()
    assert set(marks.values()) >= {"rare", "record", "one warp", "fold", "tiles 8", "feedback", "round", "alone"}
    weighed = {name for case in sass.CASES for name in case.weights}
    assert weighed <= set(marks.values())
