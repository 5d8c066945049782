"""Gradients of the small language model of ``examples/train_text.py``, trained on the standard library's sources.

Words that a batch does not hold leave exact zeros in the embedding's gradient, and the others follow Zipf's law: unlike
those of a convolutional network, such gradients are spread over many orders of magnitude. About two minutes on a CPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

STEPS, BATCH = 200, 16


def gradients(ranks: int) -> npt.NDArray[np.float32]:
    """Return float32[ranks, parameters]: the gradients of ``ranks`` batches at the same weights, after training."""
    import torch
    from language.data import WORDS, Text
    from language.model import LENGTH, LanguageModel
    from torch.nn.functional import cross_entropy

    torch.manual_seed(1)
    torch.set_num_threads(1)
    text, trained = Text.load(), LanguageModel()
    optimizer = torch.optim.Adam(trained.parameters(), lr=2e-3)
    order = torch.Generator().manual_seed(1)

    def backward(batch: int) -> None:
        starts = torch.randint(len(text.words) - LENGTH - 1, (batch,), generator=order)
        words, following = text.rows(starts.tolist(), LENGTH)
        optimizer.zero_grad()
        cross_entropy(trained(words).reshape(-1, WORDS), following.reshape(-1)).backward()

    for _ in range(STEPS):
        backward(BATCH)
        optimizer.step()
    found = []
    for _ in range(ranks):
        backward(BATCH // 2)
        found.append(torch.cat([p.grad.flatten() for p in trained.parameters() if p.grad is not None]).numpy().copy())
    return np.stack(found)
