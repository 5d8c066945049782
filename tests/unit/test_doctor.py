from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from alq_hvd import cli
from alq_hvd.cli import checks, doctor, trials
from alq_hvd.cli.checks import Check


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


@pytest.mark.multirank
def test_the_main_job_can_run_here() -> None:
    """Really try everything: this suite runs where the main job must run."""
    findings = doctor.examine(checks.checks(), timeout=100)
    assert checks.unmet([finding.name for finding in findings if finding.works]) == [], doctor.as_text(findings, [])


def test_names_agree() -> None:
    known = {"python", "launcher", *(check.name for check in checks.checks())}
    assert {name for needed in checks.FRONT_ENDS.values() for group in needed for name in group} <= known
    assert {check.trial for check in checks.checks()} <= trials.TRIALS.keys()
    assert all(check.remedy for check in checks.checks())


def test_one_of_a_group_is_enough() -> None:
    working = [group[-1] for group in checks.MAIN_JOB]
    assert checks.unmet(working) == []
    working.remove("codec reference")
    assert checks.unmet(working) == ["codec native or codec reference"]


def test_ddp_needs_neither_horovod_nor_mpi() -> None:
    working = ["python", "numpy", "scipy", "torch", "codec reference", "transport torch over Gloo"]
    assert checks.unmet(working, checks.FRONT_ENDS["DDP"]) == checks.unmet(working, checks.FRONT_ENDS["FSDP2"]) == []
    assert "horovod" in checks.unmet(working, checks.FRONT_ENDS["Horovod"])
    assert checks.unmet(working[:-1], checks.FRONT_ENDS["DDP"]) == ["transport torch over Gloo"]


def run_doctor(monkeypatch: pytest.MonkeyPatch, only: list[Check], *options: str) -> int:
    monkeypatch.setattr(doctor, "checks", lambda: only)
    return cli.main(["doctor", *options])


def test_missing_package_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trials, "TRIALS", {})
    check = Check("torch", "no-such-trial", "make setup")
    assert run_doctor(monkeypatch, [check]) == 1
    printed = capsys.readouterr().out
    assert "MISSING  torch" in printed
    assert "-> make setup" in printed
    assert "cannot run: it lacks numpy; scipy; torch; horovod; codec native or codec reference;" in printed


def test_json_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor(monkeypatch, [Check("numpy", "numpy", "pip install numpy")], "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["can_run_main_job"] is False
    assert report["front_ends"]["DDP"]["can_run"] is False
    assert "torch" in report["lacking"] and "numpy" not in report["lacking"]
    found = {finding["name"]: finding for finding in report["findings"]}
    assert found["numpy"]["works"] is True and found["numpy"]["remedy"] == ""
    assert found["python"]["needed"] is True


def test_trial_that_crashes() -> None:
    assert doctor.run_trial(python("import os; os.abort()"), 20) == (False, "died of SIGABRT")


def test_trial_that_prints_noise_around_its_answer() -> None:
    program = "print('warning {'); print('[1,0]<stdout>:{\"detail\": \"fine\"}'); print('bye {}')"
    assert doctor.run_trial(python(program), 20) == (True, "fine")


def test_trial_that_fails_without_an_answer_shows_its_last_words() -> None:
    program = "import sys; print('libmpi.so not found'); print('-----'); sys.exit(3)"
    assert doctor.run_trial(python(program), 20) == (False, "libmpi.so not found")


def test_success_without_an_answer_is_no_success() -> None:
    assert doctor.run_trial(python("pass"), 20) == (False, "exit status 0")


def test_missing_launcher() -> None:
    works, detail = doctor.run_trial(["/nowhere/horovodrun"], 20)
    assert not works and detail.startswith("cannot start /nowhere/horovodrun")


def test_trial_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    program = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(note)!r}).write_text(str(child.pid))\n"
        "time.sleep(600)"
    )
    assert doctor.run_trial(python(program), 2) == (False, "no answer within 2 s")
    state = Path(f"/proc/{note.read_text()}/stat")
    deadline = time.monotonic() + 10
    while state.exists() and state.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_wrong_codec_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from alq_hvd.codec.reference import ReferenceCodec

    genuine = ReferenceCodec.encode

    class Flipped(ReferenceCodec):
        def encode(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            record = genuine(self, *args, **kwargs)
            record[-1] ^= 1
            return record

    monkeypatch.setattr("alq_hvd.codec.native.NativeCodec", Flipped)
    with pytest.raises(Exception, match="other bytes than the reference"):
        trials.codec("native")


def test_missing_numpy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError(\"No module named 'numpy'\", name='numpy')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{checks.CHECKOUT}")
    by_name = {check.name: check for check in checks.checks()}
    for name in ("numpy", "codec reference", "codec native"):
        finding = doctor.try_out(by_name[name], timeout=100)
        assert not finding.works
        assert finding.detail == "ModuleNotFoundError: No module named 'numpy'"
    assert "pip install 'numpy" in by_name["numpy"].remedy


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"HOROVOD_GPU_OPERATIONS": "NCCL"}, "all-gather and all-to-all of GPU tensors over NCCL, if it was built"),
        ({"HOROVOD_GPU_ALLGATHER": "NCCL", "HOROVOD_GPU_ALLTOALL": "MPI"}, "not known to carry GPU tensors over NCCL"),
        ({}, "HOROVOD_GPU_ALLTOALL=(not set)"),
    ],
)
def test_nccl_is_not_taken_for_a_way_of_records(
    environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Horovod says that it has NCCL, not which collectives use it: the environment is all there is to look at."""
    built = SimpleNamespace(mpi_built=lambda: True, gloo_built=lambda: True, nccl_built=lambda: 21801)
    monkeypatch.setattr(trials.backends, "horovod", lambda: built)
    for name in ("HOROVOD_GPU_OPERATIONS", "HOROVOD_GPU_ALLGATHER", "HOROVOD_GPU_ALLTOALL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert said in trials.horovod()
    built.nccl_built = lambda: 0
    assert trials.horovod().endswith("without NCCL")
