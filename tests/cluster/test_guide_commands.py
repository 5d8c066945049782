"""The guides' commands for a cluster that are not jobs of ours: run as they stand, on the login node."""

from __future__ import annotations

import pytest

from tests.cluster.slurm import Cluster
from tests.support.guide_commands import PAGES, blocks

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

COMMANDS = [
    words
    for page in PAGES
    for block in blocks(page)
    for words in block.commands
    if block.needs == "cluster" and words[0] == "srun"
]
ANSWERS = {"--mpi=list": "pmix", "hostname": "n1\nn2"}
"""Last word of a command -> what it must print, lines in order."""


def test_there_is_an_answer_to_every_command() -> None:
    assert {words[-1] for words in COMMANDS} == set(ANSWERS)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_it_prints_what_the_guide_says(words: list[str], cluster: Cluster) -> None:
    printed = cluster.on_head(*words, seconds=120)
    assert ANSWERS[words[-1]] in "\n".join(sorted(printed.splitlines()))
