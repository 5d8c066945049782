"""One rank of three goes wrong, and no launcher ends the others: they finish, or end by themselves and say why.

The whole table is ``python -m tests.faults.run``; here are cells of every kind.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.launch import environment

pytestmark = [pytest.mark.multirank, pytest.mark.timeout(330)]
ROOT = Path(__file__).parents[2]
ENDS = (
    "horovod/who takes part/asleep",
    "horovod/second shot/killed",
    "horovod/fit of levels/raises",
    "ddp/first agreement/stopped",
    "ddp/first shot/asleep",
    "ddp/second shot/killed",
    "ddp/checkpoint is saved/raises",
    "plain/who takes part/killed",
    "plain-mpi/second shot/raises",
)
OF_FSDP = "fsdp/broadcast of levels/killed"
GOES_ON = ("horovod/first shot/late", "ddp/second shot/late", "fsdp/first shot/late")
DAMAGED = ("horovod/second shot/damages", "ddp/first shot/damages")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    stored = tmp_path_factory.mktemp("faults") / "faults.json"
    command = [sys.executable, "-m", "tests.faults.run", "--jobs", "5", "--timeout", "15", "--output", str(stored)]
    for cell in (*ENDS, OF_FSDP, *GOES_ON, *DAMAGED):
        command += ["--cell", cell]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert stored.exists(), done.stdout + done.stderr
    told = json.loads(stored.read_text())["cells"]
    return {"/".join([cell["front_end"], cell["phase"], cell["fault"]]): cell for cell in told}


def test_survivors_end_in_bounded_time_and_say_what_they_have_waited_for(cells: dict[str, dict[str, Any]]) -> None:
    for name in ENDS:
        assert not cells[name]["wrong"], name
        spoken = [text for text in cells[name]["survivors"] if text != "ended by mpirun"]
        assert spoken, name
        assert all("Timeout" in text or "HorovodInternalError" in text for text in spoken), name


def test_a_survivor_that_waits_inside_fsdp_ends_too(cells: dict[str, dict[str, Any]]) -> None:
    """With our error or with torch's: FSDP gathers parameters over the process group itself."""
    assert not cells[OF_FSDP]["wrong"]


def test_a_rank_that_is_only_late_costs_nothing(cells: dict[str, dict[str, Any]]) -> None:
    for name in GOES_ON:
        assert cells[name]["survivors"] == ["finished"], name


def test_a_record_that_was_damaged_on_its_way_is_named_by_those_who_got_it(cells: dict[str, dict[str, Any]]) -> None:
    for name in DAMAGED:
        assert not cells[name]["wrong"], name
        assert any("WireFormatError: record from rank" in text for text in cells[name]["survivors"]), name


def test_a_rank_that_never_comes_is_said_so_before_horovod_is_shut_down(cells: dict[str, dict[str, Any]]) -> None:
    """By the survivor that notices first; another one may end in its shutdown of Horovod before it has noticed."""
    said = "CommunicationTimeout: rank r, step 0: expected every rank to hand over its gradients"
    assert any(text.startswith(said) for text in cells["horovod/who takes part/asleep"]["survivors"])
