"""Let one rank of three go wrong in every way at every place of a training, and see how the others end.

    python -m tests.faults.run                          # writes benchmarks/results/faults.json; an hour
    python -m tests.faults.run --front-end ddp --fault killed --phase "second shot"
    python -m tests.faults.run --cell "horovod/first shot/late" --cell "ddp/shutdown/exits" --output some.json

Ranks are forks of one process, so that no launcher ends the others when one of them has gone; over MPI mpirun
starts them. A survivor must finish, or end by itself with an error that says what it has waited for.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "faults.json"
LIMIT = 120.0
"""Seconds after which what still runs counts as a hang: the timeout, 30 for libraries to end, and a slow machine."""
_ERROR = re.compile(r"(?:\[rank\d\]: )?((?:[\w]+\.)*(\w*(?:Error|Timeout|Mismatch|Broken))\b:? .*)")
_TAG = re.compile(r"\[1,(\d+)\]<std(?:out|err)>:")
SAYS = ("CommunicationTimeout", "HorovodInternalError", "StateError", "CheckpointError", "WireFormatError")
"""Errors of which each tells a survivor that it has waited for another rank, or that another rank could not."""
OF_FSDP = "gloo/transport"
"""What torch's own error has in it where FSDP itself, which gathers parameters, has waited for another rank."""


def main() -> int:
    """Try the chosen cells, print and store them; or be one rank under mpirun."""
    from tests.faults.injection import FAULTS, FRONT_ENDS, PHASES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--front-end", choices=FRONT_ENDS, action="append", help="default: all")
    parser.add_argument("--phase", choices=PHASES, action="append", help="default: all")
    parser.add_argument("--fault", choices=FAULTS, action="append", help="default: all")
    parser.add_argument("--cell", action="append", metavar="FRONT_END/PHASE/FAULT", help="these alone")
    parser.add_argument("--timeout", type=float, default=8.0, help="of the compression (default: %(default)g)")
    parser.add_argument("--jobs", type=int, default=3, help="worlds at once (default: %(default)d)")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--rank", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank:
        from tests.faults.training import train

        front_end, phase, fault, folder = args.rank
        train(front_end, phase, fault, Path(folder), args.timeout)
        return 0
    grid = [
        (front_end, phase, fault)
        for front_end in args.front_end or FRONT_ENDS
        for phase in args.phase or PHASES
        for fault in args.fault or FAULTS
        if possible(front_end, phase, fault)
    ]
    cells = [tuple(cell.split("/")) for cell in args.cell] if args.cell else grid
    outcomes = try_all(cells, args.timeout, args.jobs)
    store(outcomes, args.output, args.timeout)
    return int(any(cell["wrong"] for cell in outcomes))


def possible(front_end: str, phase: str, fault: str) -> bool:
    """Return whether there is such a cell.

    Records alone have checks. DDP and FSDP ask nobody whether it takes part; FSDP has one shot, and another checkpoint.
    """
    absent = {
        "ddp": ("who takes part",),
        "fsdp": ("who takes part", "second shot", "checkpoint is saved", "checkpoint is restored"),
    }
    if phase in absent.get(front_end, ()):
        return False
    return fault != "damages" or phase in ("first shot", "second shot")


def try_all(cells: list[tuple[str, str, str]], timeout: float, jobs: int) -> list[dict[str, Any]]:
    """Return what came of each cell; forks of this process, which imports everything once, try ``jobs`` at a time."""
    import horovod.torch
    import torch._dynamo

    import alq_hvd

    _ = alq_hvd.ddp, alq_hvd.Compression, horovod.torch, torch._dynamo  # forks need not import them again
    folder = Path(tempfile.mkdtemp())
    running: dict[int, Path] = {}
    waiting, outcomes = list(enumerate(cells)), []
    while waiting or running:
        while waiting and len(running) < jobs:
            number, cell = waiting.pop(0)
            own = folder / str(number)
            own.mkdir()
            pid = os.fork()
            if not pid:
                (own / "outcome.json").write_text(json.dumps(try_one(*cell, timeout, own)))
                os._exit(0)
            running[pid] = own
        pid, _ = os.wait()
        outcomes.append(json.loads((running.pop(pid) / "outcome.json").read_text()))
        one = outcomes[-1]
        print(f"{'WRONG' if one['wrong'] else 'ok':6}{one['front_end']:9} {one['fault']:8} {one['phase']:24} "
              f"{one['seconds']:5.1f} s  {one['wrong'] or one['survivors']}", flush=True)  # fmt: skip
    shutil.rmtree(folder)
    order = {cell: number for number, cell in enumerate(cells)}
    return sorted(outcomes, key=lambda one: order[one["front_end"], one["phase"], one["fault"]])


def try_one(front_end: str, phase: str, fault: str, timeout: float, folder: Path) -> dict[str, Any]:
    """Return how the survivors of one world have ended."""
    from tests.faults import worlds
    from tests.faults.training import RANKS, VICTIM, train

    survivors = [rank for rank in range(RANKS) if rank != VICTIM or fault in ("late", "raises", "memory", "damages")]
    over_mpi = front_end in ("mpi", "plain-mpi")
    if over_mpi:
        ended = mpirun(front_end, phase, fault, timeout, folder)
    else:
        program = partial(train, front_end, phase, fault, folder, timeout)
        ended = worlds.fork(front_end, RANKS, survivors, program, LIMIT, folder)
    told = [tell(ended[rank].status, ended[rank].output) for rank in survivors]
    hangs = [rank for rank in survivors if ended[rank].status is None]
    others = [text for rank, text in zip(survivors, told, strict=True) if rank != VICTIM]
    wrong = ""
    if not any("injected" in each.output for each in ended):
        wrong = f"nothing went wrong: {ended[VICTIM].output[-500:]}"
    elif hangs:
        wrong = f"ranks {hangs} hang: {[_of_no_machine(ended[rank].output[-1500:]) for rank in hangs]}"
    elif fault == "late" and set(told) != {"finished"}:
        wrong = f"a rank that is late costs the run: {told}"
    elif phase != "shutdown" and fault != "late":
        says = (*SAYS, OF_FSDP) if front_end == "fsdp" else SAYS
        silent = [text for text in others if not any(name in text for name in says)]
        if fault == "damages" and not any("WireFormatError" in text for text in told):
            wrong = f"nobody notices the damage: {told}"
        elif silent and not (over_mpi and any(text.startswith("ended by mpirun") for text in silent)):
            wrong = f"a survivor does not say why: {silent}"
    return {
        "front_end": front_end,
        "phase": phase,
        "fault": fault,
        "seconds": round(max(ended[rank].seconds for rank in survivors), 1),
        "survivors": sorted({re.sub(r"rank \d", "rank r", text) for text in others}),
        "wrong": wrong,
    }


def _of_no_machine(text: str) -> str:
    """Return a traceback without the folders in which this project and Python lie."""
    for folder in (ROOT, sys.prefix, sys.base_prefix):
        text = text.replace(f"{folder}/", "")
    return text


def tell(status: int | None, output: str) -> str:
    """Return what a rank has said last: its error, or that it finished."""
    errors = _ERROR.findall(output)
    ours = [text for text, kind in errors if kind in SAYS]
    if ours or errors:
        text = str(ours[0] if ours else errors[-1][0])
        return re.sub(r"\s+", " ", text.removeprefix("alq_hvd.errors."))[:200]
    if "finished" in output:
        return "finished"
    return "ended by mpirun" if status == -signal.SIGTERM else f"status {status}"


def mpirun(front_end: str, phase: str, fault: str, timeout: float, folder: Path) -> list[Any]:
    """Run the ranks under mpirun, which ends them all once one has failed."""
    from tests.faults.training import RANKS
    from tests.faults.worlds import Ended

    own = ["-m", "tests.faults.run", "--timeout", str(timeout), "--rank", front_end, phase, fault, str(folder)]
    start = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--tag-output", "-np", str(RANKS), sys.executable]
    variables = {**os.environ, "OMPI_MCA_mpi_yield_when_idle": "1", "PYTHONUNBUFFERED": "1"}
    began = time.monotonic()
    with (folder / "output").open("w") as output:
        job = subprocess.Popen(
            [*start, *own], cwd=ROOT, env=variables, stdout=output, stderr=output, start_new_session=True
        )
        status: int | None
        try:
            status = job.wait(LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGTERM)  # mpirun passes it on, and kills what does not follow
            job.wait()
            status = None
    text, seconds = (folder / "output").read_text(errors="replace"), time.monotonic() - began
    parts: dict[int, str] = {}
    for line in text.splitlines(keepends=True):
        _, *tagged = _TAG.split(line)
        for rank, part in zip(tagged[::2], tagged[1::2], strict=True):
            parts[int(rank)] = parts.get(int(rank), "") + part
    ends = [status if status is None or "finished" in parts.get(r, "") else -signal.SIGTERM for r in range(RANKS)]
    return [Ended(ends[rank], seconds, parts.get(rank, "")) for rank in range(RANKS)]


def store(outcomes: list[dict[str, Any]], path: Path, timeout: float) -> None:
    """Write the table, beside the cells of earlier runs."""
    from alq_hvd.machine import describe

    kept = json.loads(path.read_text())["cells"] if path.exists() else []
    cells = {(each["front_end"], each["phase"], each["fault"]): each for each in [*kept, *outcomes]}
    machine = {name: value for name, value in describe().items() if name != "host"}
    whole = {"ranks": 3, "timeout_s": timeout, "limit_s": LIMIT, "machine": machine, "cells": list(cells.values())}
    path.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
