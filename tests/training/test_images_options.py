"""Bad input ends in one line that names the option; good input gets sensible names."""

from __future__ import annotations

from pathlib import Path

import pytest
from images.options import parse_options

from tests.support.cases import each

METHODS = {"fp32": None, "fp16": None, "alq": 3, "terngrad": 2, "none": None}


@each(
    ("arguments", "message"),
    [
        (["--bits", "9"], "--bits: expected a number from 0.5 to 8, got '9'"),
        (["--widths", "free"], "--widths: invalid choice: 'free'"),
        (["--exchange", "ring"], "--exchange: invalid choice: 'ring' (choose from 'auto', "),
        (["--compression", "zip"], "--compression: invalid choice: 'zip' (choose from"),
        (["--epochs", "0"], "--epochs: expected an integer of at least 1, got '0'"),
        (["--train-images", "many"], "--train-images: expected an integer of at least 1, got 'many'"),
        (["--seed", "-1"], "--seed: expected an integer of at least 0, got '-1'"),
        (["--adapt-at", "5", "--adapt-every", "5"], "not allowed with argument"),
        (["--bucket-size", "1.5"], "--bucket-size: expected an integer of at least 1, got '1.5'"),
    ],
)
def test_bad_input_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_options(METHODS, arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@each(
    ("arguments", "label", "output"),
    [
        ([], "alq 3 bits", "alq-3-bits"),
        (["--compression", "fp16"], "fp16", "fp16"),
        (["--compression", "none", "--bits", "4"], "none", "none"),
        (["--bits", "2", "--label", "two"], "two", "two"),
        (["--compression", "terngrad"], "terngrad 2 bits", "terngrad-2-bits"),
        (["--bits", "2", "--rotate"], "alq 2 bits rotated", "alq-2-bits-rotated"),
        (["--bits", "1.5", "--widths", "adaptive"], "alq 1.5 bits adaptive", "alq-1.5-bits-adaptive"),
        (["--bits", "2", "--error-feedback"], "alq 2 bits feedback", "alq-2-bits-feedback"),
        (["--weights", "laq3"], "alq 3 bits weights laq3", "alq-3-bits-weights-laq3"),
    ],
)
def test_a_run_gets_a_label_and_a_folder(arguments: list[str], label: str, output: str) -> None:
    options = parse_options(METHODS, arguments)
    assert options.label == label
    assert options.output == Path("runs") / output


def test_no_progress_is_the_short_form() -> None:
    assert parse_options(METHODS, ["--no-progress"]).progress == "none"


def test_compression_is_measured_against_plain_horovod_only_when_asked() -> None:
    assert parse_options(METHODS, []).measure_break_even is False
    assert parse_options(METHODS, ["--break-even"]).measure_break_even is True
