"""Text that needs no download: the sources of Python's own standard library, as numbers of words."""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

WORDS = 8000
TOKENS = 1_500_000
_TOKEN = re.compile(r"\w+|[^\w\s]|\n")
_TRAINED_ON = 0.95


def corpus(tokens: int = TOKENS) -> npt.NDArray[np.int64]:
    """Return int64[tokens] words of the standard library's modules, in order of their names; 0 is any rare word."""
    found: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        found += _TOKEN.findall(path.read_text(encoding="utf-8", errors="replace"))
        if len(found) >= tokens:
            break
    common = {word: 1 + rank for rank, (word, _) in enumerate(Counter(found).most_common(WORDS - 1))}
    return np.array([common.get(word, 0) for word in found[:tokens]], dtype=np.int64)


@dataclass(frozen=True)
class Text:
    """Hold words int64[n]: the first ``cut`` are trained on, the others are for validation."""

    words: torch.Tensor
    cut: int

    @classmethod
    def load(cls, tokens: int = TOKENS) -> Text:
        """Return the first ``tokens`` words of the standard library; 95 % of them are trained on."""
        words = torch.from_numpy(corpus(tokens))
        return cls(words, int(_TRAINED_ON * len(words)))

    def training_starts(self, length: int) -> int:
        """Return in how many places a sequence of ``length`` words and the word after it can start."""
        return self.cut - length - 1

    def validation_starts(self, count: int, length: int) -> list[int]:
        """Return ``count`` places, spread over what is not trained on."""
        return torch.linspace(self.cut, len(self.words) - length - 2, count).long().tolist()

    def rows(self, starts: list[int], length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return int64[rows, length] twice: the words from every start on, and for each the word that follows it."""
        rows = torch.stack([self.words[start : start + length + 1] for start in starts])
        return rows[:, :-1], rows[:, 1:]
