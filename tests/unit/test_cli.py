from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import types

import pytest

from alq_hvd import cli
from alq_hvd.errors import ConfigurationError
from tests.support.cases import each


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in cli.COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["no-such-command"]])
def test_wrong_command_exits_2_and_lists_the_right_ones(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: alq-hvd" in capsys.readouterr().err


@each("name", cli.COMMANDS)
def test_every_command_is_a_module_with_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"alq_hvd.cli.{name}")
    assert callable(module.add_parser) and callable(module.run)
    with pytest.raises(SystemExit) as stopped:
        cli.main([name, "--help"])
    assert stopped.value.code == 0
    assert f"usage: alq-hvd {name}" in capsys.readouterr().out


def command_that(run: object) -> types.ModuleType:
    module = types.ModuleType("alq_hvd.cli.broken")
    module.add_parser = lambda subparsers: subparsers.add_parser("broken")  # type: ignore[attr-defined]
    module.run = run  # type: ignore[attr-defined]
    return module


def test_alq_error_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace) -> int:
        raise ConfigurationError("bits: expected an integer from 1 to 8, got 9")

    monkeypatch.setitem(sys.modules, "alq_hvd.cli.broken", command_that(run))
    monkeypatch.setitem(cli.COMMANDS, "broken", "fail")
    assert cli.main(["broken"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "alq-hvd broken: bits: expected an integer from 1 to 8, got 9\n"


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: argparse.Namespace) -> int:
        raise ZeroDivisionError

    monkeypatch.setitem(sys.modules, "alq_hvd.cli.broken", command_that(run))
    monkeypatch.setitem(cli.COMMANDS, "broken", "fail")
    with pytest.raises(ZeroDivisionError):
        cli.main(["broken"])


def test_help_imports_no_heavy_package() -> None:
    """A machine where torch or Horovod is broken must still get its help and its doctor."""
    program = (
        "import sys, alq_hvd.cli\n"
        "try: alq_hvd.cli.main(['doctor', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'horovod', 'mpi4py', 'cupy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
