"""The demo and the minimal program run as the documents say."""

from __future__ import annotations

import json
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from demo import run
from images.launch import run_on_ranks

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.multirank, pytest.mark.training, pytest.mark.timeout(330)]


def demo(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "demo.py"), *arguments]
    return subprocess.run(command, timeout=timeout, capture_output=True, text=True, check=False)


def test_a_short_demo_prints_one_table_and_draws_one_picture(tmp_path: Path) -> None:
    sizes = "--np 2 --runs fp32 alq:3 --train-images 512 --test-images 500 --epochs 2 --adapt-at 0 3 --text-steps 4"
    done = demo(*shlex.split(sizes), "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for row in ("test accuracy", "bytes sent per step and rank", "quantisation variance", "levels of alq 3 bits",
                "compute", "encode", "exchange", "decode", "adapt"):  # fmt: skip
        assert row in done.stdout
    assert done.stdout.count("\n    before ") == done.stdout.count("\n    after  ") == 2
    picture = Path(next(line for line in done.stdout.splitlines() if line.startswith("picture: "))[9:])
    assert picture.parent == tmp_path
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (1800, 1152)
    assert "\r" not in done.stderr  # no terminal, no terminal tricks

    text = done.stdout[done.stdout.index("Language model, 4 steps") :].splitlines()
    assert [line.split("  ")[0] for line in text[3:5]] == ["fp32", "eden 1 bits adaptive"]
    assert text[5] == f"picture: {tmp_path / 'text' / 'comparison.png'}"
    assert (tmp_path / "text" / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_the_demo_trains_under_ddp_as_well(tmp_path: Path) -> None:
    sizes = "--front-end ddp --np 2 --runs fp16 alq:3 --train-images 256 --test-images 100 --epochs 1 --adapt-at 0"
    done = demo(*shlex.split(sizes), "--text-runs", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "torchrun --standalone --nproc-per-node 2" in done.stdout
    assert done.stdout.count("\n    after  ") == 1
    assert "waited inside the backward pass" in done.stdout
    assert "Warning" not in done.stderr
    for run_directory in ("fp16", "alq-3-bits"):
        said = [json.loads((tmp_path / run_directory / f"rank-{rank}.json").read_text()) for rank in range(2)]
        assert said[0]["weights_sha256"] == said[1]["weights_sha256"], run_directory
    result = json.loads((tmp_path / "alq-3-bits" / "result.json").read_text())
    assert (result["front_end"], result["exchange"], result["levels"][0]) == ("ddp", "allgather", -1.0)


def test_a_run_that_fails_ends_the_demo_with_its_output(tmp_path: Path) -> None:
    done = demo("--np", "2", "--runs", "terngrad:5", "--train-images", "256", "--output", str(tmp_path))
    assert done.returncode == 1
    assert "terngrad is defined at 2 bits only, got 5" in done.stderr
    assert "Traceback" not in done.stderr


def test_runs_are_named_by_method_bits_and_weights() -> None:
    for text, label, arguments in (
        ("fp32", "fp32", "--compression fp32"),
        ("alq:3", "alq 3 bits", "--compression alq --bits 3"),
        ("alq:3:laq3", "alq 3 bits weights laq3", "--compression alq --bits 3 --weights laq3"),
        ("fp32:lab", "fp32 weights lab", "--compression fp32 --weights lab"),
        ("eden:2:rotate:feedback:lat2", "eden 2 bits rotated feedback weights lat2",
         "--compression eden --bits 2 --rotate --error-feedback --weights lat2"),
        ("eden:1.5:adaptive", "eden 1.5 bits adaptive", "--compression eden --bits 1.5 --widths adaptive"),
    ):  # fmt: skip
        made = run(text)
        assert (made.label, shlex.join(made.arguments)) == (label, arguments)


def test_bad_options_are_named() -> None:
    done = demo("--runs", "alq:", timeout=200)
    assert done.returncode == 2
    assert "expected METHOD[:BITS[:rotate][:feedback][:adaptive]][:WEIGHTS], got 'alq:'" in done.stderr


def test_the_minimal_program_learns(tmp_path: Path) -> None:
    heard: list[str] = []
    run_on_ranks(2, [str(EXAMPLES / "minimal.py")], tmp_path / "log.txt", timeout=250, say=heard.append)
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in heard if line.startswith("step")]
    assert len(losses) == 10
    assert losses[-1] < 0.6 * losses[0]
