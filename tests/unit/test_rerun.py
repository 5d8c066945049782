"""One command measures every figure of the page of evidence anew, goes on where it was cut, and writes the page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import rerun
from benchmarks.rerun import RERUNS, Rerun

ROOT = Path(__file__).parents[2]
EVIDENCE = "benchmarks/evidence.py"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what would have been run; nothing is."""
    lines: list[str] = []
    monkeypatch.setattr(rerun, "_python", lambda arguments: lines.append(arguments) or 0)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return lines


def test_every_result_on_the_page_has_a_program_and_the_other_way_round() -> None:
    source = (ROOT / EVIDENCE).read_text()
    read = set(re.findall(r'_read\("([\w-]+)"\)', source))
    read |= {f"exchange-defaults-{front_end}" for front_end in ("ddp", "horovod")}
    assert 'f"exchange-defaults-{front_end}"' in source
    assert {name for each in RERUNS for name in each.results} == read
    assert all((ROOT / "benchmarks" / "results" / f"{name}.json").exists() for name in read)


def test_every_program_takes_its_options() -> None:
    for each in RERUNS:
        program, *options = each.arguments.split()
        source = (ROOT / program).read_text()
        assert all(f'"{option}"' in source for option in options if option.startswith("--")), each.arguments
        assert f'"runs" / "{each.records}"' in source or not each.records, each.name


def test_what_has_finished_is_not_repeated(ran: list[str], tmp_path: Path) -> None:
    only = ["--records", str(tmp_path), "--only", "rate", "buckets"]
    assert rerun.main(only) == 0
    assert ran == ["benchmarks/buckets.py", "benchmarks/rate.py", EVIDENCE]
    ran.clear()
    assert rerun.main(only) == 0
    assert ran == [EVIDENCE]
    ran.clear()
    assert rerun.main([*only, "--afresh"]) == 0
    assert ran == ["benchmarks/buckets.py", "benchmarks/rate.py", EVIDENCE]


def test_afresh_forgets_single_trainings_too(ran: list[str], tmp_path: Path) -> None:
    kept = tmp_path / "supersgd" / "one.json"
    kept.parent.mkdir()
    kept.write_text("{}")
    assert rerun.main(["--records", str(tmp_path), "--only", "supersgd"]) == 0
    assert kept.exists()
    assert rerun.main(["--records", str(tmp_path), "--only", "supersgd", "--afresh"]) == 0
    assert not kept.exists()


def test_a_program_that_fails_stops_no_other_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "written"
    monkeypatch.setattr(
        rerun,
        "RERUNS",
        (
            Rerun("-c 'raise SystemExit(3)'", ("bad",), 1),
            Rerun(f'-c \'open("{written}", "w")\'', ("good",), 1),
        ),
    )
    python = rerun._python
    monkeypatch.setattr(rerun, "_python", lambda arguments: 0 if arguments == EVIDENCE else python(arguments))
    assert rerun.main(["--records", str(tmp_path)]) == 1
    assert written.exists()
    assert "not measured: bad" in capfd.readouterr().err
    assert sorted(path.name for path in (tmp_path / "evidence").iterdir()) == ["good.done"]


def test_links_are_not_shaped_without_root(
    ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert rerun.main(["--records", str(tmp_path), "--only", "exchange"]) == 1
    assert ran == [EVIDENCE]
    assert "expected root" in capsys.readouterr().out


def test_the_list_says_how_long_it_takes() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "rerun.py"), "--list"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
    assert len(said.splitlines()) == len(RERUNS)
    assert "minutes" in said or "done" in said
