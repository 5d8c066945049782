"""``alq-hvd doctor``: what is installed, what works when really tried, and the command that fixes what does not."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from alq_hvd.cli import Subparsers
from alq_hvd.cli.checks import FRONT_ENDS, MAIN_JOB, SYSTEM_MPI, Check, checks, find_program, set_up_command, unmet

OLDEST_PYTHON = (3, 10)
RANKS_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    # Two ranks must start as root (containers) and on a single core; variables work where options differ by version.
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Say how one check went; ``needed`` when the main job depends on it or on one of its alternatives."""

    name: str
    works: bool
    detail: str
    remedy: str
    needed: bool


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the options of this subcommand."""
    parser = subparsers.add_parser("doctor", description=__doc__, help="check this installation")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a report")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="limit of each trial")
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the report; return 0 when the main job could run here, 1 otherwise."""
    findings = examine(checks(), args.timeout)
    working = [finding.name for finding in findings if finding.works]
    lacking, of_front_ends = unmet(working), {name: unmet(working, needed) for name, needed in FRONT_ENDS.items()}
    if args.json:
        report = {
            "can_run_main_job": not lacking,
            "lacking": lacking,
            "front_ends": {
                name: {"can_run": not missing, "lacking": missing} for name, missing in of_front_ends.items()
            },
            "findings": [asdict(each) for each in findings],
        }
        print(json.dumps(report, indent=2))
    else:
        print(as_text(findings, lacking))
        for name, missing in of_front_ends.items():
            verdict = f"cannot run, it lacks {'; '.join(missing)}" if missing else "can run"
            print(f"Front end {name}: {verdict}.")
    return 1 if lacking else 0


def examine(what: Iterable[Check], timeout: float) -> list[Finding]:
    """Try every check, as many at once as there are processors, and return the findings in their order."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        tried = list(pool.map(lambda check: try_out(check, timeout), what))
    return [python_finding(), launcher_finding(), *tried]


def python_finding() -> Finding:
    """Say whether this Python is new enough."""
    works = sys.version_info >= OLDEST_PYTHON
    remedy = "install Python 3.10 or newer, remove .venv, then: PYTHON=python3.NN make setup"
    detail = f"{'.'.join(map(str, sys.version_info[:3]))}, {sys.executable}"
    return Finding("python", works, detail, "" if works else remedy, needed=True)


def launcher_finding() -> Finding:
    """Say which commands can start ranks; one is enough, though the examples use horovodrun."""
    found = {name: find_program(name) for name in ("horovodrun", "mpirun")}
    there = [f"{name} ({path})" for name, path in found.items() if path]
    remedy = "" if there else set_up_command() or SYSTEM_MPI
    return Finding("launcher", bool(there), ", ".join(there) or "neither horovodrun nor mpirun", remedy, needed=True)


def try_out(check: Check, timeout: float) -> Finding:
    """Run the trial of ``check`` in processes of its own."""
    works, detail = run_trial(check.command, timeout)
    needed = any(check.name in group for group in MAIN_JOB)
    return Finding(check.name, works, detail, "" if works else check.remedy, needed)


def run_trial(command: list[str], timeout: float) -> tuple[bool, str]:
    """Run ``command`` and return whether it succeeded and what it said."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **RANKS_ENVIRONMENT},
            start_new_session=True,
        )
    except OSError as error:
        return False, f"cannot start {command[0]}: {error.strerror}"
    try:
        printed, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        stop(process)
        return False, f"no answer within {timeout:g} s"
    answer = last_answer(printed)
    if process.returncode == 0 and "detail" in answer:
        return True, answer["detail"]
    if process.returncode < 0:
        return False, f"died of {signal.Signals(-process.returncode).name}"
    return False, answer.get("error") or last_line(printed) or f"exit status {process.returncode}"


def stop(process: subprocess.Popen[str]) -> None:
    """End a launcher and its ranks: politely first, because a launcher then ends the ranks it started elsewhere."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=5)
            return


def last_answer(printed: str) -> dict[str, str]:
    """Return the last JSON object in ``printed``; launchers put "[1,0]<stdout>:" before it."""
    for line in reversed(printed.splitlines()):
        start = line.find("{")
        with contextlib.suppress(json.JSONDecodeError):
            answer = json.loads(line[start:]) if start >= 0 else None
            if isinstance(answer, dict) and answer.keys() & {"detail", "error"}:
                return {str(key): str(value) for key, value in answer.items()}
    return {}


def last_line(printed: str) -> str:
    """Return the last line that says something."""
    lines = [line.strip() for line in printed.splitlines() if line.strip(" -*\t")]
    return lines[-1] if lines else ""


def as_text(findings: Iterable[Finding], lacking: list[str]) -> str:
    """Lay out the report for a person."""
    lines = []
    for finding in findings:
        state = "ok" if finding.works else "MISSING" if finding.needed else "absent"
        lines.append(f"{state:<9}{finding.name:<29}{finding.detail}")
        if not finding.works:
            lines.append(f"{'':<9}{'':<29}-> {finding.remedy}")
    verdict = f"The main job cannot run: it lacks {'; '.join(lacking)}." if lacking else "The main job can run."
    return "\n".join([*lines, "", verdict])
