"""``alq-hvd bench codec``: what it prints, not how fast it was."""

from __future__ import annotations

import json

import pytest

from alq_hvd import backends, cli
from alq_hvd.cli.codec_rates import Rate
from tests.support.cases import each

SMALL = ["--elements", "20000", "--bucket-size", "512", "--repeats", "2"]


def test_json_lists_every_codec_and_operation(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "codec", "--json", "--bits", "3,4", *SMALL]) == 0
    rates = json.loads(capsys.readouterr().out)
    codecs = {"native", "reference"} | ({"torch-eager"} if backends.available("torch") else set())
    expected = {
        (codec, operation, bits, ranks, rotate, adaptive)
        for codec in codecs
        for adaptive in ((False, True) if codec == "native" else (False,))
        for rotate in ((False, True) if codec == "native" else (False,))
        for bits in (3, 4)
        for operation, ranks in (
            *(("encode", 1), ("encode/32", 1), ("encode/31", 1), ("feedback", 1)),
            *(("decode_sum", 1), ("decode_sum", 4)),
        )
        if codec != "torch-eager" or operation in ("encode", "decode_sum")
    }
    named = ("codec", "operation", "bits", "ranks", "rotate", "adaptive")
    assert {tuple(rate[name] for name in named) for rate in rates} == expected
    assert all(rate["elements_per_second"] > 0 for rate in rates)
    assert len({rate["memcpy_elements_per_second"] for rate in rates}) == 1


def test_table_names_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "codec", "--bits", "2", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "copy of float32:" in printed and "x memcpy" in printed
    assert [line for line in printed.splitlines() if line.startswith("native      encode        2")]
    assert [line for line in printed.splitlines() if line.startswith("native") and line.endswith(" rotated")]


def test_shares() -> None:
    """A copy moves 8 bytes an element, encoding at 4 bits 4.5, adding 8 records of 4 bits 8."""
    assert Rate("native", "encode", 4, 1, 100, 5.0, 10.0).share_of_memcpy == 0.5
    assert Rate("native", "encode", 4, 1, 100, 5.0, 10.0).share_of_bandwidth == 0.5 * 4.5 / 8
    assert Rate("cuda", "decode_sum", 4, 8, 100, 5.0, 10.0).share_of_bandwidth == 0.5


@each(
    ("options", "message"),
    [
        (["--bits", "3,x"], "bits: expected numbers from 1 to 8 between commas, got '3,x'"),
        (["--bits", "9"], "bits: expected an integer from 1 to 8, got 9"),
        (["--elements", "0"], "elements: expected an integer from 1 to"),
        (["--threads", "0"], "threads: expected an integer from 1 to 1024, got 0"),
    ],
)
def test_wrong_options_are_named(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "codec", *options]) == cli.ERROR_STATUS
    assert message in capsys.readouterr().err
