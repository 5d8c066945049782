"""Run the parts of Horovod's own tests and examples that gradients pass through, with compressors of ours.

    make test-horovod                        # all of it, about ten minutes on two cores
    make test-horovod ARGS="-k examples"     # some

It ends with status 1 when anything fails that docs/reference/horovod-tests.md does not name.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from alq_hvd import machine
from tests.support.launch import environment, one_rank_after_the_other
from tests.upstream.source import ROOT, VERSION, unpack

RESULTS = ROOT / "benchmarks" / "results" / "horovod-tests.json"
TESTS = (
    "compress or optim or process_set or grouped or sparse or join or broadcast_state or clipping or dynamic or "
    "force_allreduce or named_parameters or duplicate or synchronize_step"
)
OPTIMIZERS = (
    "compress or optim or sparse_embeddings or broadcast_state or clipping or dynamic or force_allreduce or "
    "named_parameters or duplicate or synchronize_step"
)
"""Where calls keep Horovod's own compressor, the other tests never meet one of ours."""
ELASTIC = "hosts_added_and_removed or reset_limit or all_ranks_failure"
TEST_SECONDS, RUN_SECONDS = 600, 1800
"""Of a test, and of a run: ten times what a quiet machine needs, for a hang must fail, and a busy one must not."""
EXPECTED_TO_FAIL = {"test_compression_fp16"}
"""It asks that Horovod be handed float16; ours hands it a float32 probe."""
STOCK = "hvd.Compression.fp16 if args.fp16_allreduce else hvd.Compression.none"
OURS = '__import__("alq_hvd").Compression.optimal(bits=4, named_parameters=model.named_parameters())'
ELASTIC_OURS = (
    'compression = __import__("alq_hvd").Compression.optimal(bits=4, min_elements=0, exchange="two_shot", '
    "break_even=False, named_parameters=model.named_parameters())\n"
    "optimizer = hvd.DistributedOptimizer(optimizer, compression=compression, "
)
_PASSED = re.compile(r"(\d+) passed")
_FAILED = re.compile(r"^FAILED \S*::(\w+)", re.MULTILINE)


@dataclass
class Outcome:
    """Hold what became of one run: of a group of tests, or of an example."""

    name: str
    passed: int
    failed: list[str]
    seconds: float
    said: str = ""

    @property
    def fine(self) -> bool:
        """Return whether something passed, and nothing failed beside what must."""
        return self.passed > 0 and set(self.failed) <= EXPECTED_TO_FAIL


def edit(path: Path, *changes: tuple[str, str]) -> None:
    """Replace lines of an unpacked file, each of which must be there exactly once."""
    text = path.read_text()
    for before, after in changes:
        assert text.count(before) == 1, f"{path}: expected once: {before}"
        text = text.replace(before, after)
    path.write_text(text)


def start(command: list[str], directory: Path, seconds: float, **variables: str) -> tuple[int, str]:
    """Run a command to its end in ``directory``; return its status and what its ranks print, one after the other."""
    path = [str(ROOT), str(ROOT / "examples"), str(directory.parent / "utils")]
    if not usable("torchvision"):
        path.append(str(ROOT / "tests" / "upstream" / "stand_in"))
    variables = {**environment(), "PYTHONPATH": os.pathsep.join(path), **variables}
    command = ["timeout", "--kill-after=10", str(seconds), *command]
    done = subprocess.run(
        command, cwd=directory, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return done.returncode, one_rank_after_the_other(done.stdout + done.stderr)


def usable(name: str) -> bool:
    """Return whether a package can be imported; torchvision for another PyTorch cannot."""
    if importlib.util.find_spec(name) is None:
        return False
    return subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, check=False).returncode == 0


def ranks(number: int, *command: str) -> list[str]:
    """Return the command line that starts ``number`` ranks."""
    return [str(Path(sys.executable).with_name("horovodrun")), "-np", str(number), sys.executable, *command]


def tests(name: str, directory: Path, file: str, chosen: str, number: int = 2, compression: str = "") -> Outcome:
    """Run some of Horovod's tests on ``number`` ranks, or in this process alone where that is 0."""
    words = [
        "-m",
        "pytest",
        "-c",
        os.devnull,
        "-q",
        "--color=no",
        "-p",
        "no:cacheprovider",
        "-rf",
        "--tb=short",
        f"--timeout={TEST_SECONDS}",
    ]
    words += ["-p", "tests.upstream.plugin"] if compression else []
    command = [*(ranks(number) if number else [sys.executable]), *words, file, "-k", chosen]
    began = time.monotonic()
    status, output = start(command, directory, RUN_SECONDS, ALQ_HVD_UPSTREAM=compression)
    failed = sorted(set(_FAILED.findall(output)))
    passed = min((int(count) for count in _PASSED.findall(output)), default=0)
    if status and not failed:
        failed = [f"status {status}"]
    said = next(iter(re.findall(r"^alq_hvd: .*", output, re.MULTILINE)), "")
    (directory / f"{name.replace(' ', '-')}.log").write_text(output)
    return Outcome(name, passed, failed, round(time.monotonic() - began, 1), said)


def example(name: str, directory: Path, pattern: str, *words: str) -> Outcome:
    """Run an example on two ranks; what ``pattern`` finds last in its output is its result."""
    began = time.monotonic()
    status, output = start(ranks(2, *words), directory, RUN_SECONDS)
    found = re.findall(pattern, output)
    fine = status == 0 and bool(found)
    failed = [] if fine else [f"status {status}: {output[-2000:]}"]
    return Outcome(name, int(fine), failed, round(time.monotonic() - began, 1), found[-1] if found else "")


def store(outcomes: list[Outcome]) -> None:
    """Put these runs in the place of the last ones of their names."""
    kept = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []
    runs = {run["name"]: run for run in kept} | {each.name: asdict(each) for each in outcomes}
    stored = {"horovod": VERSION, "machine": machine.describe(), "runs": list(runs.values())}
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


def main() -> int:
    """Unpack, change, run, store; return 1 when anything failed that should not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-k", default="", metavar="WORD", help="run only what has this in its name")
    parser.add_argument("--stock", action="store_true", help="leave Horovod's own compressors in place, to compare")
    args = parser.parse_args()
    root = unpack()
    parallel, integration, examples = root / "test/parallel", root / "test/integration", root / "examples/pytorch"
    if not args.stock:
        for file in ("pytorch_mnist.py", "pytorch_synthetic_benchmark.py"):
            edit(examples / file, (STOCK, OURS))
        edit(
            integration / "data/elastic_torch_main.py",
            ("optimizer = hvd.DistributedOptimizer(optimizer, ", ELASTIC_OURS),
            (
                "hvd.elastic.TorchState(model, optimizer, ",
                "hvd.elastic.TorchState(model, optimizer, compression=compression, ",
            ),
        )
    mnist = ("pytorch_mnist.py", "--epochs", "1", "--no-cuda", "--log-interval", "100")
    synthetic = ("pytorch_synthetic_benchmark.py", "--no-cuda", "--batch-size", "8", "--num-iters", "3",
                 "--num-warmup-batches", "3", "--num-batches-per-iter", "5",
                 "--model", "resnet18" if usable("torchvision") else "small")  # fmt: skip
    torch, state = "test_torch.py", "test_torch_elastic.py"
    exact, optimal, qsgdinf = ("", "", "") if args.stock else ("none::calls", "optimal:8", "qsgdinf:4")
    cases = {
        "operations, exact": lambda name: tests(name, parallel, torch, TESTS, 2, exact),
        "optimal 8 bits": lambda name: tests(name, parallel, torch, OPTIMIZERS, 2, optimal),
        "qsgdinf 4 bits, 3 ranks": lambda name: tests(name, parallel, torch, OPTIMIZERS, 3, qsgdinf),
        "elastic state": lambda name: tests(name, root / "test/single", state, "elastic", 1, optimal),
        "elastic runs": lambda name: tests(name, integration, "test_elastic_torch.py", ELASTIC, 0),
        "examples mnist": lambda name: example(name, examples, r"Test set: .*", *mnist),
        "examples synthetic": lambda name: example(name, examples, r"Total img/sec .*", *synthetic),
    }  # fmt: skip
    outcomes = []
    for name, run in cases.items():
        if args.k not in name:
            continue
        outcomes.append(run(name))
        last = outcomes[-1]
        print(
            f"{'ok  ' if last.fine else 'FAIL'} {name}: {last.passed} passed in {last.seconds:g} s; {last.said}",
            flush=True,
        )
        for failure in last.failed:
            print(f"     {failure}" + (" (must fail)" if failure in EXPECTED_TO_FAIL else ""), flush=True)
    if not args.stock:
        store(outcomes)
    return int(not all(each.fine for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
