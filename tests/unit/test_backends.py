"""What a user reads when a package is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKED = "import sys; sys.modules[{name!r}] = None\n"
CASES = [
    ("horovod", "import alq_hvd; alq_hvd.Compression.alq(bits=3)", "cannot import horovod.torch.*run `make setup`"),
    ("torch", "import alq_hvd; alq_hvd.Compression.alq(bits=3)", "pip install torch$"),
    ("alq_hvd.codec._native", "import alq_hvd; alq_hvd.Compression.alq(codec='native')", "C\\+\\+17 compiler"),
    (
        "mpi4py",
        "from alq_hvd import backends; backends.mpi()",
        "install an MPI library, then pip install 'alq-hvd\\[mpi\\]'",
    ),
    ("cupy", "from alq_hvd import backends; backends.cupy()", "alq-hvd\\[cuda12\\]"),
]


@pytest.mark.parametrize(("name", "program", "message"), CASES, ids=[case[0] for case in CASES])
def test_a_missing_package_is_named_with_the_command_that_mends_it(name: str, program: str, message: str) -> None:
    first, second = program.split("; ", 1)
    text = BLOCKED.format(name=name) + (
        f"import re, alq_hvd.errors\n{first}\n"
        f"try:\n    {second}\n"
        f"except alq_hvd.errors.BackendUnavailable as error:\n"
        f"    assert re.search({message!r}, str(error)), error\n    print('refused')\n"
    )
    run = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=200, check=False)
    assert run.stdout.strip() == "refused", run.stderr


def test_without_the_compiled_codec_numpy_serves_and_says_so() -> None:
    text = BLOCKED.format(name="alq_hvd.codec._native") + (
        "import logging; logging.basicConfig()\n"
        "from alq_hvd.codec.choice import choose_codec\nprint(choose_codec('auto').name)\n"
    )
    run = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=200, check=False)
    assert run.stdout.strip() == "reference", run.stderr
    assert "the C++ codec is not compiled" in run.stderr
