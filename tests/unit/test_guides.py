"""Every command of the guides runs here, or is checked word by word and says what it needs to run."""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from alq_hvd import cli, errors
from tests.support.cases import each
from tests.support.guide_commands import KINDS, PAGES, ROOT, Block, blocks
from tests.support.launch import environment

ALL = [block for page in PAGES for block in blocks(page)]
NEEDY = [block for block in ALL if block.needs]
TRAINING = "examples/train_images.py"
TEXT = "examples/train_text.py"
SMALL = {
    TRAINING: f"{TRAINING} --train-images 64 --test-images 32 --batch-size 16 --epochs 2 --log-every 1",
    TEXT: f"{TEXT} --tokens 20000 --validate-every 2 --log-every 1",
    "--output runs/text": "--steps 4 --output runs/text",
    "--checkpoint checkpoints/spot": "--checkpoint checkpoints/spot --epochs 50",  # long enough to be stopped
    "examples/elastic.py": "examples/elastic.py --steps 20",
    "alq-hvd bench codec": "alq-hvd bench codec --elements 100000 --repeats 2",
    "alq-hvd doctor": "alq-hvd doctor --help",  # tests/unit/test_doctor.py tries everything, which takes half a minute
}
"""What makes a command quick here; all of it is in the command's own help."""
PLAIN = {
    ".",
    "[",
    "chmod",
    "command",
    "df",
    "docker",
    "echo",
    "grep",
    "hostname",
    "kill",
    "ldconfig",
    "ldd",
    "nvidia-smi",
    "pip",
    "printf",
    "python",
    "sleep",
    "ssh",
    "ssh-copy-id",
    "ssh-keygen",
    "torchrun",
    "wait",
}
"""Programs that everybody has or that are not ours to check."""
HELP = {
    "horovodrun": ["horovodrun", "--help"],
    "mpirun": ["mpirun", "--help", "all"],
    "sbatch": ["sbatch", "--help"],
    "srun": ["srun", "--help"],
}
BIN = Path(sys.executable).parent


def test_every_guide_is_in_the_index_and_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert {"laptop", "workstation", "slurm", "cloud"} <= {page.stem for page in PAGES}
    for page in PAGES:
        assert f"({page.relative_to(ROOT)})" in readme, page.name
        assert f"\n{page.stem}\n" in (page.parent / "index.md").read_text(), page.name


def test_commands_of_every_kind_are_found() -> None:
    """A page whose commands this file does not see would pass every other test."""
    assert all(any(block.page == page for block in ALL) for page in PAGES)
    assert {block.needs for block in ALL} == {"", *KINDS}
    seen = {words[0] for block in ALL for words in block.commands}
    assert {"horovodrun", "launch/mpirun.sh", "launch/local.sh", "alq-hvd", "python", "srun", "sbatch", "make"} <= seen


@each("block", ALL)
def test_the_shell_can_read_it(block: Block) -> None:
    subprocess.run(["bash", "-n", "-c", block.text], check=True, timeout=100)


@each("block", ALL)
def test_every_word_means_something(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    for words in block.commands:
        program = words[0].removeprefix(".venv/bin/")
        assert program in CHECKS or program in PLAIN or program.startswith("launch/"), f"{block}: what is {words[0]}?"
        CHECKS.get(program, no_check)(words)
        for word in words:
            if re.match(r"(launch|examples|slurm|tests|docs)/", word):
                assert (ROOT / word).exists(), f"{block}: {word}"
            if word.startswith("launch/") and word.endswith(".sh"):
                assert os.access(ROOT / word, os.X_OK), f"{block}: {word} cannot be run"
    capsys.readouterr()


def no_check(words: list[str]) -> None:
    """Accept a program whose words are its own."""


def check_own(words: list[str]) -> None:
    """Parse a command of alq-hvd by its own parser; render batch scripts, which refuse what cannot work."""
    if words[1] == "sbatch":
        assert cli.main([word for word in words[1:] if word != "--submit"]) == 0, words
        return
    parser = importlib.import_module(f"alq_hvd.cli.{words[1]}").add_parser(argparse.ArgumentParser().add_subparsers())
    try:
        parser.parse_args(words[2:])
    except SystemExit:
        pytest.fail(f"{' '.join(words)}: refused by its parser")


def check_options(words: list[str]) -> None:
    """Look every option of a launcher up in its help, as far as its own options go."""
    program = words[0]
    for word in words[1:]:
        if word in ("python", "hostname") or "/" in word:
            break
        option = word.split("=")[0]
        if option.startswith("-") and program in HELP:
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", help_of(program)), f"{program} has no {option}"


def check_make(words: list[str]) -> None:
    """Ask make what it would do."""
    subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, timeout=100, capture_output=True)


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "alq-hvd": check_own,
    "make": check_make,
    **dict.fromkeys(HELP, check_options),
}


@functools.cache
def help_of(program: str) -> str:
    command = HELP[program]
    path = shutil.which(program, path=f"{BIN}:{os.environ['PATH']}")
    if path is None:
        pytest.skip(f"{program} is not installed here: its options were not looked up")
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as configuration:
        # Slurm's programs print no help without a cluster to ask, and Open MPI's none for root.
        configuration.write(
            "ClusterName=none\nSlurmctldHost=localhost\nNodeName=localhost\nPartitionName=p Nodes=ALL\n"
        )
        configuration.flush()
        allow = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "SLURM_CONF": configuration.name}
        done = subprocess.run(
            [path, *command[1:]], capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **allow}
        )
    assert len(done.stdout) > 1000, f"{program} prints no help: {done.stderr}"
    return done.stdout


def test_what_needs_a_cluster_is_run_by_the_cluster_tests() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests" / "cluster").glob("*.py"))
    for block in (block for block in NEEDY if block.needs == "cluster"):
        for words in block.commands:
            for word in words:
                if word.startswith("launch/") or word in ("--scaling", "--submit", "--mpi=pmix", "--mpi=list"):
                    assert Path(word).name in tests, f"{block}: no cluster test uses {word}"


@pytest.mark.multirank
@pytest.mark.training
@pytest.mark.timeout(650)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_needs_nothing_runs(page: Path, tmp_path: Path) -> None:
    """One shell runs the page from top to bottom, in a folder that has the checkout's programs and nothing else."""
    for name in ("alq_hvd", "docs", "examples", "launch", "slurm", ".venv"):
        (tmp_path / name).symlink_to(ROOT / name)
    script = "\n".join(["trap 'echo \"failed: $BASH_COMMAND\"' ERR", *(b.text for b in blocks(page) if not b.needs)])
    for usual, quick in SMALL.items():
        script = script.replace(usual, quick)
    # Commands before the page activates .venv, and pages that do not, still find it, after everything else.
    variables = {**environment(), "PATH": f"{os.environ['PATH']}:{BIN}", "PYTHONPATH": str(ROOT)}
    with (tmp_path / "output").open("w+") as output:
        done = subprocess.run(
            ["bash", "-e", "-c", script], cwd=tmp_path, env=variables, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, timeout=600, check=False,
        )  # fmt: skip
        output.seek(0)
        printed = output.read()
    assert done.returncode == 0, printed[-4000:]
    if TRAINING in script:
        assert "test accuracy" in printed
    if TEXT in script:
        assert re.search(r"^eden 1 bits adaptive .* 4 +\d\.\d", printed, re.MULTILINE), printed[-2000:]
    if "kill -USR1" in script:
        assert "stopped with status 75" in printed
    if "report runs/" in script:
        assert (tmp_path / "scaling.html").read_text().startswith("<!DOCTYPE html>")


def test_troubleshooting_explains_every_error_of_ours() -> None:
    page = (ROOT / "docs" / "guides" / "troubleshooting.md").read_text()
    own = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.AlqError)}
    assert len(own) >= 13
    for name in own:
        assert f"`{name}`" in page or f"`alq_hvd.errors.{name}`" in page, name


def test_links_of_the_guides_lead_somewhere() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([\w./-]*?\.md)?(#[\w-]+)?\)", page.read_text()):
            other = (page.parent / target).resolve() if target else page
            assert other.exists(), f"{page.name}: {target}"
            headings = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                        for line in other.read_text().splitlines() if line.startswith("#")}  # fmt: skip
            assert not anchor or anchor[1:] in headings, f"{page.name}: {target}{anchor}"
