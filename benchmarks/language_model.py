"""Gradients of a small language model: 8 000 words, 128 wide, three blocks, trained on the standard library's sources.

Words that a batch does not hold leave exact zeros in the embedding's gradient, and the others follow Zipf's law: unlike
those of a convolutional network, such gradients are spread over many orders of magnitude. About two minutes on a CPU.
"""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

WORDS = 8000
WIDTH, BLOCKS, HEADS, LENGTH = 128, 3, 4, 64
STEPS, BATCH = 200, 16
TOKENS = 1_500_000
_TOKEN = re.compile(r"\w+|[^\w\s]|\n")


def corpus() -> npt.NDArray[np.int64]:
    """Return int64[TOKENS] words of the standard library's modules, in order of their names; 0 is any rare word."""
    found: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        found += _TOKEN.findall(path.read_text(encoding="utf-8", errors="replace"))
        if len(found) >= TOKENS:
            break
    common = {word: 1 + rank for rank, (word, _) in enumerate(Counter(found).most_common(WORDS - 1))}
    return np.array([common.get(word, 0) for word in found[:TOKENS]], dtype=np.int64)


def model() -> Any:
    """Return the untrained model: int64[batch, LENGTH] words to float32[batch, LENGTH, WORDS] scores."""
    import torch
    from torch import nn

    class LanguageModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
                for _ in range(BLOCKS)
            )
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)
            self.mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)

        def forward(self, words: torch.Tensor) -> torch.Tensor:
            hidden = self.words(words) + self.places.weight
            for block in self.blocks:
                hidden = block(hidden, src_mask=self.mask, is_causal=True)
            scores: torch.Tensor = self.head(self.norm(hidden))
            return scores

    return LanguageModel()


def gradients(ranks: int) -> npt.NDArray[np.float32]:
    """Return float32[ranks, parameters]: the gradients of ``ranks`` batches at the same weights, after training."""
    import torch
    from torch.nn.functional import cross_entropy

    torch.manual_seed(1)
    torch.set_num_threads(1)
    text, trained = torch.from_numpy(corpus()), model()
    optimizer = torch.optim.Adam(trained.parameters(), lr=2e-3)
    order = torch.Generator().manual_seed(1)

    def backward(batch: int) -> None:
        starts = torch.randint(len(text) - LENGTH - 1, (batch,), generator=order)
        words = torch.stack([text[start : start + LENGTH + 1] for start in starts.tolist()])
        optimizer.zero_grad()
        scores = trained(words[:, :-1])
        cross_entropy(scores.reshape(-1, WORDS), words[:, 1:].reshape(-1)).backward()

    for _ in range(STEPS):
        backward(BATCH)
        optimizer.step()
    found = []
    for _ in range(ranks):
        backward(BATCH // 2)
        found.append(torch.cat([p.grad.flatten() for p in trained.parameters() if p.grad is not None]).numpy().copy())
    return np.stack(found)
