"""A small language model: 8 000 words, 128 wide, three blocks of a transformer; 2.65 million parameters."""

from __future__ import annotations

import torch
from torch import nn

from language.data import WORDS

WIDTH, BLOCKS, HEADS, LENGTH = 128, 3, 4, 64


class LanguageModel(nn.Module):
    """Map words int64[batch, LENGTH] to scores of the word that follows each, float32[batch, LENGTH, WORDS]."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(BLOCKS)
        )
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)
        # Not a buffer: a state_dict holds parameters alone.
        self.mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Return the scores."""
        hidden = self.words(words) + self.places.weight
        for block in self.blocks:
            hidden = block(hidden, src_mask=self.mask, is_causal=True)
        scores: torch.Tensor = self.head(self.norm(hidden))
        return scores
