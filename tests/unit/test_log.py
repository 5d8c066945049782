"""``ALQ_HVD_LOG``: read at the first use and not before, and lines that say rank and step."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alq_hvd import log
from alq_hvd.errors import ConfigurationError

ROOT = Path(__file__).parents[2]


def run(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in (*log._RANKS, log.VARIABLE)}
    command = [sys.executable, "-c", program]
    environment = {**kept, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, check=False)


SPEAKS = """
import logging, os
import alq_hvd, alq_hvd.checkpoint
os.environ["ALQ_HVD_LOG"] = os.environ.pop("LATER")  # after the import, before the first use
logging.getLogger("alq_hvd.engine").info("too early")
alq_hvd.Levels
alq_hvd.log.at_step(7)
logging.getLogger("alq_hvd.engine").info("levels %d", 3)
logging.getLogger("alq_hvd").debug("more")
"""


def test_lines_say_rank_and_step_from_the_first_use_on(tmp_path: Path) -> None:
    done = run(SPEAKS, LATER="info", HOROVOD_RANK="3")
    assert done.stderr.splitlines()[0].endswith("alq_hvd rank 3 step 7 INFO: levels 3"), done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = run(SPEAKS, LATER=f"debug:{tmp_path}/logs/rank-%r.log", RANK="1")
    assert done.stderr == ""
    lines = (tmp_path / "logs" / "rank-1.log").read_text().splitlines()
    assert [line.split(" alq_hvd ")[1] for line in lines] == [
        "rank 1 step 7 INFO: levels 3",
        "rank 1 step 7 DEBUG: more",
    ]
    assert run(SPEAKS, LATER="").stderr == ""


def test_a_setting_that_means_nothing_is_refused_at_the_first_use() -> None:
    done = run(SPEAKS, LATER="loud")
    assert (
        "ConfigurationError: ALQ_HVD_LOG: expected one of debug, info, warning, error, or LEVEL:FILE, got 'loud'"
        in (done.stderr)
    )
    with pytest.raises(ConfigurationError, match="ALQ_HVD_LOG: expected a file that can be written, got /dev/null/x"):
        log.start("info:/dev/null/x")


def test_a_handler_of_the_program_gets_both_from_the_filter(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(filter := log.RankAndStep())
    log.at_step(12)
    try:
        logging.getLogger("alq_hvd.test").warning("a line")
    finally:
        caplog.handler.removeFilter(filter)
        del log._here.step
    assert (caplog.records[0].step, caplog.records[0].rank) == (12, log.rank())  # type: ignore[attr-defined]
