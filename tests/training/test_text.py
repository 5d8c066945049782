"""The language model trains as its tutorial says, on ranks that agree bit for bit, and runs are compared."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import compare_text
import pytest
from images.launch import run_on_ranks
from language.data import Text
from language.model import LENGTH

from alq_hvd.run_record import read_run

TRAIN_TEXT = Path(__file__).parents[2] / "examples" / "train_text.py"
SHORT = ["--steps", "6", "--tokens", "20000", "--validate-every", "3", "--log-every", "2", "--no-progress"]

pytestmark = [pytest.mark.training, pytest.mark.timeout(330)]


def train(output: Path, *arguments: str, front_end: str) -> dict[str, Any]:
    program = [str(TRAIN_TEXT), "--front-end", front_end, "--output", str(output), *SHORT, *arguments]
    run_on_ranks(2, program, output / "log.txt", timeout=300, front_end=front_end)
    result: dict[str, Any] = json.loads((output / "result.json").read_text())
    return result


@pytest.mark.multirank
def test_few_bytes_teach_words_under_ddp_and_horovod(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first loss is that of guessing, ln 8000 = 9; six steps learn which words are common."""
    runs = {
        "ddp": ("--compression", "eden", "--bits", "1", "--widths", "adaptive"),
        "horovod": ("--compression", "fp16"),
    }
    results = {host: train(tmp_path / host, *runs[host], front_end=host) for host in runs}
    for host, result in results.items():
        ranks = [json.loads((tmp_path / host / f"rank-{rank}.json").read_text()) for rank in range(2)]
        assert ranks[0]["weights_sha256"] == ranks[1]["weights_sha256"] == result["weights_sha256"], host
        assert [step for step, _ in result["validation_loss"]] == [3, 6], host
        assert result["validation_loss"][-1][1] < 8.5, host
        assert read_run(tmp_path / host).result.steps == 6, host
    assert results["ddp"]["bytes_per_step"] < 0.1 * results["horovod"]["bytes_per_step"]

    picture = tmp_path / "text.png"
    assert compare_text.main([str(tmp_path / "ddp"), str(tmp_path / "horovod"), "--picture", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:3]] == ["fp16", "eden 1 bits adaptive"]
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (840, 480)


def test_text_that_is_too_short_is_named(tmp_path: Path) -> None:
    command = [sys.executable, str(TRAIN_TEXT), "--front-end", "ddp", "--tokens", "1000", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 2
    assert "train_text.py: error: --tokens: expected text for sequences of 64, got 1000 words" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_validated_on_is_not_trained_on() -> None:
    text = Text.load(20_000)
    last = text.training_starts(LENGTH) - 1
    _, following = text.rows([last], LENGTH)
    assert following.shape == (1, LENGTH)
    assert last + LENGTH < text.cut
    starts = text.validation_starts(8, LENGTH)
    assert len(set(starts)) == 8
    assert text.cut <= min(starts) <= max(starts) < len(text.words) - LENGTH
    words, following = text.rows(starts, LENGTH)
    assert words[:, 1:].equal(following[:, :-1])


def test_what_is_not_a_finished_run_of_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare_text.main([str(tmp_path / "none")]) == 2
    assert "expected a finished run" in capsys.readouterr().err
    (tmp_path / "result.json").write_text("{}")
    assert compare_text.main([str(tmp_path)]) == 2
    assert "expected a run of train_text.py" in capsys.readouterr().err
