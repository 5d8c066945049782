"""The commands of a page of the documentation, and what each needs to run.

A block of commands is indented by four spaces. Without a mark it runs on any machine after ``make setup``; a line
``<!-- needs: KIND -->`` before it names what else it takes.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
WITHOUT_COMMANDS = {"index.md", "monitoring.md", "training-loops.md"}
"""Lists of pages, and guides that show Python alone."""
PAGES = [
    page
    for kind in ("tutorials", "guides")
    for page in sorted((ROOT / "docs" / kind).glob("*.md"))
    if page.name not in WITHOUT_COMMANDS
]
KINDS = {
    "setup": "installs something: the set-up scripts have tests of their own",
    "hosts": "several machines joined by ssh",
    "cluster": "a Slurm cluster: tests/cluster brings one up",
    "gpu": "a GPU and its driver",
    "docker": "a container engine and an image",
    "runs": "runs that have finished",
}
_MARK = re.compile(r"<!-- needs: (\w+) -->")
_OPERATORS = {"|", "||", "&", "&&", ";", "(", ")"}
_KEYWORDS = {"until", "while", "do", "done", "if", "then", "fi", "!"}
_ASSIGNMENT = re.compile(r"\w+=.*")


@dataclass(frozen=True)
class Block:
    """Hold lines that belong together: ``needs`` is a key of ``KINDS``, or empty."""

    page: Path
    line: int
    needs: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """Return the words of every simple command, without assignments before it."""
        found: list[list[str]] = []
        for line in self.text.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            lexer.commenters = "#"
            found.append([])
            for word in lexer:
                if word in _OPERATORS:
                    found.append([])
                elif found[-1] or not (word in _KEYWORDS or _ASSIGNMENT.fullmatch(word)):
                    found[-1].append(word)
        return [words for words in found if words]


def blocks(page: Path) -> list[Block]:
    """Return the blocks of ``page`` in order."""
    found: list[Block] = []
    needs, fenced, start = "", False, 0
    lines: list[str] = []
    for number, line in enumerate([*page.read_text().splitlines(), ""], start=1):
        fenced ^= line.startswith("```")
        if line.startswith("    ") and not fenced:
            start = start if lines else number
            lines.append(line[4:])
            continue
        if lines and line:
            raise AssertionError(f"{page.name}:{number}: expected an empty line after a block of commands")
        if lines:
            found.append(Block(page, start, needs, "\n".join(lines)))
            needs, lines = "", []
        if mark := _MARK.fullmatch(line):
            assert mark[1] in KINDS, f"{page.name}:{number}: expected one of {', '.join(KINDS)}, got {mark[1]}"
            needs = mark[1]
        elif line:
            assert not needs, f"{page.name}:{number}: expected commands after the mark"
    return found
